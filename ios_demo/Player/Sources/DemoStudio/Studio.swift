import Foundation
import Metal
import Player

/// What the app shows. The screens draw it and hold nothing of their own but what is being typed.
public struct StudioState: Sendable {
    public enum Work: Sendable {
        case idle, opening, drawing, measuring
    }

    public struct Size: Hashable, Sendable {
        public let width: Int
        public let height: Int
    }

    /// The model that is open.
    public struct Model: Equatable, Sendable {
        public let name: String
        public let sizes: [Size]
        /// Numbers of steps that the bundle has tables for, and the usual one.
        public let steps: [Int]
        public let usualSteps: Int
        public let adapters: [Adapter]
        /// Whether it looks at a picture while it draws (ControlNet).
        public let takesControl: Bool
        /// Whether it has a decoder that is sooner done and not as exact.
        public let decodesFast: Bool
    }

    /// What a model can be changed with.
    public struct Adapter: Hashable, Sendable {
        public let name: String
        /// How much of it is usual; 1 is all.
        public let scale: Double
    }

    public init() {}

    public internal(set) var work = Work.idle
    public internal(set) var model: Model?
    /// For people: what is being done, how much of it (0 to 1), and how long the rest takes.
    public internal(set) var stage = ""
    public internal(set) var fraction = 0.0
    public internal(set) var secondsLeft: Double?
    public internal(set) var preview: Pixels?
    public internal(set) var picture: Pixels?
    /// The last picture's file, and the last benchmark's.
    public internal(set) var pictureFile: URL?
    public internal(set) var resultFile: URL?
    public internal(set) var result: BenchmarkResult?
    /// What went wrong, or what there is to know; nil once it was read.
    public internal(set) var message: String?
}

/// A line about the device or its memory, for people.
public struct ReportRow: Identifiable, Sendable {
    public let name: String
    public let value: String

    public var id: String { name }
}

/// What is behind the app's screens, without a screen: one model that stays open, and one piece of work at a time, on a
/// thread of its own. Every method may be called from any thread and returns at once.
public final class Studio: @unchecked Sendable {
    private let folder: URL
    private let device: MTLDevice?
    private let phone: PhoneFacts
    private let changed: @Sendable (StudioState) -> Void
    private let queue = DispatchQueue(label: "ondevice.studio", qos: .userInitiated)
    private let lock = NSLock()
    private var held = StudioState()
    private var pipeline: Pipeline?
    private var url: URL?
    /// Why the work at hand was ended, where it was not the user.
    private var reason: String?
    private var isEnding = false

    /// - Parameters:
    ///   - folder: where pictures and results are written.
    ///   - device: nil for the system's own.
    ///   - changed: told of each new state, from any thread.
    public init(
        folder: URL, device: MTLDevice? = nil, phone: PhoneFacts, changed: @escaping @Sendable (StudioState) -> Void
    ) {
        self.folder = folder
        self.device = device
        self.phone = phone
        self.changed = changed
    }

    public var state: StudioState { lock.withLock { held } }

    private func change(_ edit: (inout StudioState) -> Void) {
        let state = lock.withLock { () -> StudioState in
            edit(&held)
            return held
        }
        changed(state)
    }

    /// Begin a piece of work, if nothing else is being done; what it throws becomes the message.
    private func work(_ kind: StudioState.Work, _ body: @escaping () throws -> Void) {
        let isFree = lock.withLock { () -> Bool in
            guard held.work == .idle else { return false }
            held.work = kind
            held.message = nil
            (held.stage, held.fraction, held.secondsLeft, held.preview) = ("", 0, nil, nil)
            (reason, isEnding) = (nil, false)
            return true
        }
        guard isFree else { return }
        changed(state)
        queue.async { [self] in
            var message: String?
            do {
                try body()
            } catch {
                let isCancelled = (error as? PlayerError)?.kind == .cancelled
                let why = lock.withLock { reason }
                message = isCancelled ? why : "\(error)"
            }
            change {
                $0.work = .idle
                $0.preview = nil
                $0.message = message
            }
        }
    }

    private func say(_ progress: DrawingProgress, part: Double = 1, before: Double = 0) {
        change {
            $0.stage = progress.stage
            $0.fraction = before + part * Double(progress.done) / Double(max(progress.calls, 1))
            $0.secondsLeft = progress.secondsLeft
            if let preview = progress.preview { $0.preview = preview }
        }
        // Of a drawing that was ended before it had begun.
        if lock.withLock({ isEnding }) { lock.withLock { pipeline }?.cancel() }
    }

    // What the user does ----------------------------------------------------------------------------------------------

    /// Open a bundle: a folder, or a file that `ondevice pack` wrote. The one before is given back.
    public func open(_ url: URL) {
        work(.opening) { [self] in
            hold(nil, nil)
            change { ($0.model, $0.stage) = (nil, "opening \(url.lastPathComponent)") }
            let opened = try Pipeline(bundle: url, device: device)
            let model = StudioState.Model(
                name: opened.bundle.manifest.source,
                sizes: opened.sizes.map { StudioState.Size(width: $0.width, height: $0.height) },
                steps: opened.samplers[opened.usual.sampler] ?? [opened.usual.steps], usualSteps: opened.usual.steps,
                adapters: opened.adapters.map { StudioState.Adapter(name: $0.name, scale: $0.scale) },
                takesControl: !opened.controls.isEmpty, decodesFast: opened.hasFastDecoder)
            hold(opened, url)
            change { $0.model = model }
        }
    }

    private func hold(_ pipeline: Pipeline?, _ url: URL?) {
        lock.withLock { (self.pipeline, self.url) = (pipeline, url) }
    }

    /// Draw a picture, and write its file.
    public func draw(_ request: Request) {
        work(.drawing) { [self] in
            guard let pipeline = lock.withLock({ self.pipeline }) else { throw Studio.nothingIsOpen }
            try checkMemory(pipeline, request)
            let drawn = try pipeline.draw(request) { [self] in say($0) }
            let file = folder.appendingPathComponent("picture-\(Int(1000 * Date().timeIntervalSince1970)).png")
            try write(Data(drawn.png), file)
            change { ($0.picture, $0.pictureFile, $0.fraction) = (drawn.pixels, file, 1) }
        }
    }

    /// Measure pictures, from a bundle that is opened anew, and write the result's file.
    public func measure(_ request: Request, repeats: Int, state: @escaping @Sendable () -> PhoneState) {
        work(.measuring) { [self] in
            guard let url = lock.withLock({ self.url }) else { throw Studio.nothingIsOpen }
            lock.withLock { pipeline }?.unload()
            let benchmark = try Benchmark(
                bundle: url, device: device, request: request, repeats: repeats, phone: phone, state: state)
            lock.withLock { pipeline = benchmark.pipeline }
            let result = try benchmark.run { [self] number, all, progress in
                say(progress, part: 1 / Double(all), before: Double(number) / Double(all))
            }
            let file = folder.appendingPathComponent("benchmark-\(Int(Date().timeIntervalSince1970)).jsonl")
            try write(try result.json() + Data("\n".utf8), file)
            change { ($0.result, $0.resultFile, $0.fraction) = (result, file, 1) }
        }
    }

    /// End the work at hand soon.
    public func cancel() { end(nil) }

    /// The message was read.
    public func dismiss() { change { $0.message = nil } }

    // What the phone does ---------------------------------------------------------------------------------------------

    /// The system is short of memory: the work ends, or, where there is none, what is loaded is given back.
    public func memoryIsShort() {
        if state.work != .idle {
            return end(
                "The phone ran short of memory, and the drawing was ended before the phone would end the app. Close "
                    + "other apps, choose a smaller picture, or draw with less memory.")
        }
        queue.async { [self] in lock.withLock { pipeline }?.unload() }
    }

    /// The app left the screen, where no app may use the GPU.
    public func leftTheScreen() {
        end("The drawing was ended as the app left the screen: iOS lets no app use the GPU in the background.")
    }

    private func end(_ why: String?) {
        let running = lock.withLock { () -> Pipeline? in
            guard held.work == .drawing || held.work == .measuring else { return nil }
            (reason, isEnding) = (why, true)
            return pipeline
        }
        running?.cancel()
    }

    // Reports ---------------------------------------------------------------------------------------------------------

    /// Tells, from any thread, of the device and its memory; where nothing is being done with what a
    /// request would take.
    public func report(_ request: Request, then: @escaping @Sendable ([ReportRow]) -> Void) {
        guard state.work == .idle else { return then(phoneRows()) }
        queue.async { [self] in then(phoneRows() + modelRows(request)) }
    }

    private func phoneRows() -> [ReportRow] {
        var rows = [
            ReportRow(name: "phone", value: phone.model), ReportRow(name: "system", value: phone.system),
            ReportRow(name: "memory", value: Studio.megabytes(phone.memoryBytes)),
            ReportRow(name: "this app", value: Studio.megabytes(ProcessMemory.now)),
            ReportRow(name: "this app at most", value: Studio.megabytes(ProcessMemory.peak)),
        ]
        if let available = ProcessMemory.available {
            rows.append(ReportRow(name: "this app may take", value: Studio.megabytes(available)))
        }
        return rows
    }

    private func modelRows(_ request: Request) -> [ReportRow] {
        guard let pipeline = lock.withLock({ self.pipeline }) else { return [] }
        let facts = pipeline.session.facts
        var rows = [
            ReportRow(name: "GPU", value: facts.name),
            ReportRow(name: "GPU has", value: facts.needs.joined(separator: ", ")),
            ReportRow(name: "largest buffer", value: Studio.megabytes(facts.limits["allocation"] ?? 0)),
        ]
        if !pipeline.bundle.target.isEmpty { rows.append(ReportRow(name: "plans for", value: pipeline.bundle.target)) }
        if let memory = try? pipeline.memory(request) {
            rows.append(ReportRow(name: "a picture takes", value: Studio.megabytes(memory.arena)))
            rows.append(ReportRow(name: "weights, in their files", value: Studio.megabytes(memory.weights)))
            if memory.changed > 0 {
                rows.append(ReportRow(name: "weights that adapters change", value: Studio.megabytes(memory.changed)))
            }
        }
        return rows
    }

    static func megabytes(_ bytes: Int) -> String { "\((bytes + 500_000) / 1_000_000) MB" }

    private static let nothingIsOpen = PlayerError(.usage, "no model is open.", fix: "open one")

    /// A picture that the phone has no room for is refused before the phone ends the app for it.
    private func checkMemory(_ pipeline: Pipeline, _ request: Request) throws {
        guard let available = ProcessMemory.available else { return }
        let memory = try pipeline.memory(request)
        let taken = memory.arena + memory.changed
        guard taken > available else { return }
        let what = "a picture takes \(Studio.megabytes(taken)), and the phone gives \(Studio.megabytes(available))."
        let fix = request.lowMemory ? "close other apps, or choose a smaller picture" : "draw with less memory"
        throw PlayerError(.device, what, at: "memory", fix: fix)
    }

    private func write(_ data: Data, _ file: URL) throws {
        do {
            try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
            try data.write(to: file, options: .atomic)
        } catch {
            throw PlayerError(
                .output, "cannot be written (\(error.localizedDescription)).", at: file.lastPathComponent,
                fix: "make room on the phone")
        }
    }
}
