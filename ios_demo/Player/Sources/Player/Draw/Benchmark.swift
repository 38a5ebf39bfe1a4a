import Foundation
import Metal

/// What a phone says of itself before and after a benchmark; what it does not say is nil.
public struct PhoneState: Codable, Sendable {
    /// `nominal`, `fair`, `serious` or `critical`.
    public var thermal: String?
    public var batteryPercent: Double?
    public var charging: Bool?

    public init(thermal: String? = nil, batteryPercent: Double? = nil, charging: Bool? = nil) {
        self.thermal = thermal
        self.batteryPercent = batteryPercent
        self.charging = charging
    }
}

/// The phone itself.
public struct PhoneFacts: Codable, Sendable {
    public var model: String
    public var system: String
    public var cores: Int
    public var memoryBytes: Int

    public init(model: String, system: String, cores: Int, memoryBytes: Int) {
        self.model = model
        self.system = system
        self.cores = cores
        self.memoryBytes = memoryBytes
    }
}

/// A result, as docs/benchmarks_on_devices.md has it: `ondevice bench FILE --device apple` reads its JSON.
public struct BenchmarkResult: Codable, Sendable {
    /// Sums over the launches of one picture, on the device's clock.
    public struct Op: Codable, Sendable {
        public let op: String
        public let kernel: String
        public internal(set) var seconds: Double
        public internal(set) var runs: Int
        public internal(set) var flops: Int
        public internal(set) var bytes: Int
    }

    public let device: String
    public let driver: String
    public let source: String
    public let bundle: String
    public let width: Int
    public let height: Int
    public let steps: Int
    /// The first picture, from a bundle that was just opened: kernels are compiled, pages of weights read.
    public let firstSeconds: Double
    public let medianSeconds: Double
    /// The median of the last third, when a phone is warm.
    public let sustainedSeconds: Double
    public let runs: [Double]
    public let stepsSeconds: Double
    public let decoderSeconds: Double
    public let ops: [Op]
    public let components: [String: Double]
    public let planBytes: Int
    public let peakBytes: Int
    public let player: String
    public let plans: String?
    public let phone: PhoneFacts
    public let phoneBefore: PhoneState
    public let phoneAfter: PhoneState

    /// One line of JSON.
    public func json() throws -> Data {
        let encoder = JSONEncoder()
        encoder.keyEncodingStrategy = .convertToSnakeCase
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return try encoder.encode(self)
    }
}

/// Measures whole pictures: one to warm up, `repeats` that count, and one in which each launch is timed.
public struct Benchmark {
    public let pipeline: Pipeline
    private let request: Request
    private let repeats: Int
    private let phone: PhoneFacts
    private let state: () -> PhoneState

    /// Opens the bundle anew, so that the first picture is one.
    ///
    /// - Parameter state: asked before the first picture and after the last.
    /// - Throws: as `Pipeline` does.
    public init(
        bundle url: URL, device: MTLDevice? = nil, request: Request, repeats: Int, phone: PhoneFacts,
        state: @escaping () -> PhoneState
    ) throws {
        pipeline = try Pipeline(bundle: url, device: device)
        self.request = request
        self.repeats = max(repeats, 1)
        self.phone = phone
        self.state = state
    }

    /// - Parameter progress: told of pictures done, all that there are, and what the one at work says.
    /// - Throws: `PlayerError`, as a drawing does; `pipeline.cancel()` ends it.
    public func run(progress: @escaping (Int, Int, DrawingProgress) -> Void) throws -> BenchmarkResult {
        let before = state()
        let session = pipeline.session
        let all = repeats + 2
        var runs: [Double] = []
        var steps: [Double] = []
        var decoders: [Double] = []
        var calls = 0
        func draw(_ number: Int) throws -> (Drawn, Double) {
            let clock = Stopwatch()
            let drawn = try pipeline.draw(request) {
                calls = $0.calls
                progress(number, all, $0)
            }
            return (drawn, clock.seconds)
        }
        let (_, first) = try draw(0)
        for number in 1...repeats {
            let (drawn, seconds) = try draw(number)
            runs.append(seconds)
            steps.append(drawn.secondsOfSteps)
            decoders.append(drawn.secondsOfDecoder)
        }
        let beforeProfile = session.secondsByComponent
        session.profile = []
        defer { session.profile = nil }
        let (drawn, _) = try draw(repeats + 1)
        let components = session.secondsByComponent.reduce(into: [String: Double]()) { found, row in
            found[row.key] = row.value - (beforeProfile[row.key] ?? 0)
        }.filter { $0.value > 0 }
        let memory = try pipeline.memory(request)
        return BenchmarkResult(
            device: session.facts.name, driver: ProcessInfo.processInfo.operatingSystemVersionString,
            source: pipeline.bundle.manifest.source, bundle: pipeline.bundle.name, width: drawn.facts.width,
            height: drawn.facts.height, steps: calls, firstSeconds: first, medianSeconds: Benchmark.median(runs),
            sustainedSeconds: Benchmark.median(Array(runs.suffix((runs.count + 2) / 3))), runs: runs,
            stepsSeconds: Benchmark.median(steps), decoderSeconds: Benchmark.median(decoders),
            ops: Benchmark.sums(session.profile ?? []), components: components,
            planBytes: memory.arena + memory.weights, peakBytes: ProcessMemory.peak,
            player: "ondevice-swift \(playerVersion)",
            plans: pipeline.bundle.target.isEmpty ? nil : pipeline.bundle.target,
            phone: phone, phoneBefore: before, phoneAfter: state())
    }

    private static func median(_ values: [Double]) -> Double {
        let sorted = values.sorted()
        let middle = sorted.count / 2
        return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
    }

    /// Launches of one op by one kernel, together; the longest first.
    private static func sums(_ launches: [BenchmarkResult.Op]) -> [BenchmarkResult.Op] {
        var found: [String: BenchmarkResult.Op] = [:]
        for launch in launches {
            let key = "\(launch.op) \(launch.kernel)"
            guard var sum = found[key] else {
                found[key] = launch
                continue
            }
            sum.seconds += launch.seconds
            sum.runs += 1
            sum.flops += launch.flops
            sum.bytes += launch.bytes
            found[key] = sum
        }
        return found.values.sorted { ($0.seconds, $0.op, $0.kernel) > ($1.seconds, $1.op, $1.kernel) }
    }
}
