import Foundation
import Metal

/// Draws pictures with a bundle: text to picture, by the words of docs/pipeline.md. It knows no family of models.
///
/// One drawing at a time, on any thread but one that must not wait; `cancel` may be called from any.
public final class Pipeline: @unchecked Sendable {
    public let bundle: ModelBundle
    public let session: Session
    let spec: PipelineSpec
    let tokenizers: [String: Tokenizer]
    private let lock = NSLock()
    private var cancelled = false

    /// Reads the manifest and the tokenizers; no weights.
    ///
    /// - Parameter device: nil for the system's own.
    /// - Throws: `PlayerError`: the bundle is damaged, asks for what this version does not do, or does not fit the
    ///   device.
    public init(_ bundle: ModelBundle, device: MTLDevice? = nil) throws {
        self.bundle = bundle
        spec = try bundle.pipeline()
        try Pipeline.checkSupported(spec)
        session = try Session(bundle, device: device)
        var tokenizers: [String: Tokenizer] = [:]
        for name in bundle.manifest.tokenizers.keys { tokenizers[name] = try Tokenizer(bundle, name) }
        self.tokenizers = tokenizers
        session.isCancelled = { [unowned self] in lock.withLock { cancelled } }
    }

    /// - Parameter url: a folder that `ondevice convert` wrote, or a file that `ondevice pack` wrote.
    public convenience init(bundle url: URL, device: MTLDevice? = nil) throws {
        try self.init(try ModelBundle(at: url), device: device)
    }

    /// End the drawing soon: it throws a `PlayerError` of the kind `cancelled`. What is loaded stays.
    public func cancel() { lock.withLock { cancelled = true } }

    /// Give back what is in memory; the next drawing loads it again.
    public func unload() { session.release() }

    /// Draw one picture.
    ///
    /// - Parameter progress: told at each step, from this thread.
    /// - Throws: `PlayerError`: `usage` for what cannot be had, `numeric` where a result is not finite, `cancelled`,
    ///   and what bundle and device can fail with.
    public func draw(_ request: Request, progress: ((DrawingProgress) -> Void)? = nil) throws -> Drawn {
        lock.withLock { cancelled = false }
        let plan = try DrawingPlan(self, request)
        return try Drawing(self, request, plan, progress ?? { _ in }).run()
    }

    /// Refuse words of docs/pipeline.md that are not here yet.
    private static func checkSupported(_ spec: PipelineSpec) throws {
        var missing: [String] = []
        for (name, entry) in spec.pictures {
            if entry.optional && entry.of.isEmpty && name != "image" { continue }  // nobody can give it
            if entry.prepare != "fit" { missing.append("pictures prepared by \(entry.prepare)") }
            if name != "image" { missing.append("a picture \(name)") }
        }
        for (name, _) in spec.texts where name != "prompt" && name != "negative_prompt" {
            missing.append("a text \(name)")
        }
        if spec.gives != "picture" { missing.append("frames") }
        if spec.numbers.contains(where: { $0.entry.ramp != nil }) { missing.append("a number per frame") }
        let madeInCalls = Set(spec.denoise.flatMap(\.roles).flatMap(\.keep).map(\.value)).union(["timestep"])
        if spec.denoise.contains(where: { $0.passes.contains { !madeInCalls.isDisjoint(with: $0.zeros) } }) {
            missing.append("zeros for what a call makes")
        }
        if let first = missing.first {
            throw PlayerError(
                .bundle, "its pipeline asks for \(first), which this version does not do.", at: "pipeline",
                fix: "install a newer ondevice")
        }
    }
}

/// A request with all that the bundle says for it: what will be drawn, before anything runs.
struct DrawingPlan {
    let width: Int
    let height: Int
    let numbers: [String: Double]
    let table: SamplerTable
    /// The first call that is made: later ones where a run begins from a picture.
    let firstCall: Int
    let place: Sizes
    /// Rows of a decoder's bands; 0: in one piece.
    let rows: Int

    init(_ pipeline: Pipeline, _ request: Request) throws {
        let spec = pipeline.spec
        let bundle = pipeline.bundle
        let scale = spec.latents.scale
        guard request.image == nil || spec.picture("image") != nil else {
            throw PlayerError(.usage, "this model begins from no picture.", at: "image", fix: "leave it out")
        }
        guard request.image == nil || request.latents == nil else {
            throw PlayerError(
                .usage, "both given (got latents and an image, expected one).", at: "latents",
                fix: "leave one out")
        }
        for (name, entry) in spec.pictures where !entry.optional && request.image == nil {
            throw PlayerError(.usage, "this model draws nothing without a picture.", at: name, fix: "give one")
        }
        for (name, optional) in spec.texts where !optional && request.texts[name] == nil {
            throw PlayerError(
                .usage, "this model draws nothing without this text.", at: name,
                fix: "give one; it may be empty")
        }
        let usual = try pipeline.sizes.first.map { $0 } ?? DrawingPlan.noSize(bundle)
        func side(_ asked: Int?, _ image: Int?, _ usual: Int, _ name: String) throws -> Int {
            let value = asked ?? image.map { max($0 - $0 % scale, scale) } ?? usual
            guard value >= scale, value % scale == 0 else {
                throw PlayerError(
                    .usage, "not a size the model can draw (got \(value), expected a multiple of \(scale)).",
                    at: name, fix: "use \(max((value + scale / 2) / scale, 1) * scale)")
            }
            return value
        }
        width = try side(request.width, request.image?.width, usual.width, "width")
        height = try side(request.height, request.image?.height, usual.height, "height")
        place = ["height": height / scale, "width": width / scale]
        numbers = try Values.numbers(spec, request.numbers, width: width, height: height)
        let strength = request.image == nil ? nil : spec.latents.strength
        table = try DrawingPlan.table(bundle, spec, request, begins: strength != nil)
        if let strength {
            let left = Int(Double(table.steps) * min(max(numbers[strength]!, 0), 1))
            guard left > 0, table.steps - left < table.calls.count else {
                throw PlayerError(
                    .usage, "nothing is left to draw (got \(numbers[strength]!) of \(table.steps) steps).",
                    at: strength, fix: "use a larger one, or more steps")
            }
            firstCall = table.steps - left
        } else {
            firstCall = 0
        }
        rows = try DrawingPlan.rows(pipeline, place, lowMemory: request.lowMemory)
    }

    private static func noSize(_ bundle: ModelBundle) throws -> (width: Int, height: Int) {
        throw PlayerError(
            .bundle, "it has no plans that draw a picture.", at: bundle.name,
            fix: "convert the checkpoint again")
    }

    /// The sampler's table. From a picture a sampler without memory is needed: where the default is none, `ddim`.
    private static func table(
        _ bundle: ModelBundle, _ spec: PipelineSpec, _ request: Request, begins: Bool
    ) throws -> SamplerTable {
        let steps = request.steps ?? spec.steps
        func read(_ sampler: String) throws -> SamplerTable? {
            let name = "\(sampler)_\(steps)"
            guard name.isASCII, bundle.manifest.samplers.contains(name) else { return nil }
            return try SamplerTable(try bundle.object("samplers/\(name).json"), at: "samplers/\(name).json")
        }
        let sampler = request.sampler ?? spec.sampler
        guard var table = try read(sampler) else {
            let have = bundle.manifest.samplers.filter { $0.hasPrefix(sampler + "_") }
                .compactMap { Int($0.dropFirst(sampler.count + 1)) }.sorted().map(String.init)
            let listed = have.isEmpty ? "has no \(sampler)" : "has \(have.joined(separator: ", "))"
            throw PlayerError(
                .usage, "there is no table of \(sampler) at \(steps) steps (the bundle \(listed)).",
                at: "steps", fix: have.isEmpty ? "use \(spec.sampler)" : "use one of these")
        }
        if begins, table.begins.isEmpty {
            guard request.sampler == nil, let other = try read("ddim"), !other.begins.isEmpty else {
                throw PlayerError(
                    .usage, "\(sampler) cannot begin from a picture.", at: "sampler",
                    fix: "use ddim, euler or euler_a")
            }
            table = other
        }
        return table
    }

    private static func rows(_ pipeline: Pipeline, _ place: Sizes, lowMemory: Bool) throws -> Int {
        let have = pipeline.bandRows(place)
        let isWhole = pipeline.entry(pipeline.spec.decoder.component, batch: 1, place) != nil
        if isWhole { return lowMemory ? have.min() ?? 0 : 0 }
        return (lowMemory ? have.min() : have.max()) ?? 0
    }
}

extension Pipeline {
    /// The sizes of a component's plan for a batch at a place, with the names that its plans have.
    func sizes(_ component: String, batch: Int, _ place: Sizes) -> Sizes {
        let wanted = place.merging(["batch": batch]) { $1 }
        let usual = bundle.plans.first { $0.component == component && $0.sizes["stage"] == nil }?.sizes ?? wanted
        return wanted.filter { usual[$0.key] != nil }
    }

    func entry(_ component: String, batch: Int, _ place: Sizes) -> PlanEntry? {
        bundle.entry(component, sizes(component, batch: batch, place))
    }

    /// Rows of the bands in which the bundle can decode a picture.
    func bandRows(_ place: Sizes) -> [Int] {
        let entries = bundle.plans.filter {
            $0.component == spec.decoder.component && $0.sizes["stage"] == 1 && $0.sizes["width"] == place["width"]
                && $0.sizes["height"] == place["height"]
        }
        return entries.compactMap { $0.sizes["rows"] }
    }

    /// The sizes in pixels that can be drawn, in the order of the bundle.
    public var sizes: [(width: Int, height: Int)] {
        let denoiser = spec.denoise[0].roles.last?.component
        var found: [(width: Int, height: Int)] = []
        for entry in bundle.plans where entry.component == denoiser {
            guard let width = entry.sizes["width"], let height = entry.sizes["height"] else { continue }
            let place = ["width": width, "height": height]
            let scale = spec.latents.scale
            let decodes = self.entry(spec.decoder.component, batch: 1, place) != nil || !bandRows(place).isEmpty
            if decodes, !found.contains(where: { $0 == (width * scale, height * scale) }) {
                found.append((width * scale, height * scale))
            }
        }
        return found
    }

    /// What is drawn with where a request says nothing.
    public var usual: (sampler: String, steps: Int) { (spec.sampler, spec.steps) }

    /// The names of its samplers, each with the numbers of steps that there are tables for.
    public var samplers: [String: [Int]] {
        var found: [String: [Int]] = [:]
        for name in bundle.manifest.samplers {
            guard let mark = name.lastIndex(of: "_"), let steps = Int(name[name.index(after: mark)...]) else {
                continue
            }
            found[String(name[..<mark]), default: []].append(steps)
        }
        return found.mapValues { $0.sorted() }
    }

    /// What a request needs at most, before anything is loaded: bytes of the arena, and of the files of weights, which
    /// are mapped and which the system may drop.
    ///
    /// - Throws: `PlayerError` where it cannot be drawn.
    public func memory(_ request: Request) throws -> (arena: Int, weights: Int) {
        let plan = try DrawingPlan(self, request)
        var arena = 0
        var shards: [String: Int] = [:]
        func count(_ plan: Plan) {
            arena = max(arena, plan.arena)
            for operand in plan.operands {
                if case .weight(let key) = operand.home, let file = bundle.manifest.weights[key]?.file {
                    shards[file] = bundle.manifest.files[file]?.bytes ?? 0
                }
            }
        }
        for (role, batch) in runs(plan, request) {
            if plan.rows > 0, role.component == spec.decoder.component {
                let stages = try bundle.stages(
                    height: plan.place["height"]!, width: plan.place["width"]!, rows: plan.rows)
                stages.forEach { count($0.plan) }
            } else {
                count(try bundle.plan(role.component, sizes(role.component, batch: batch, plan.place)))
            }
        }
        return (arena, shards.values.reduce(0, +))
    }

    /// Every run that a drawing makes, and how many passes at a time.
    func runs(_ plan: DrawingPlan, _ request: Request) -> [(role: Role, batch: Int)] {
        var found: [(role: Role, batch: Int)] = []
        for role in spec.roles.filter({ $0.every != .call }) {
            let isRun = role.feed.allSatisfy {
                if case .picture(let name, _) = $0.feed { return name == "image" && request.image != nil }
                return true
            }
            if isRun { found.append((role, 1)) }
        }
        for loop in spec.denoise {
            let batch = passesAtOnce(loop, loop.passesInUse(plan.numbers).count, plan.place, request.lowMemory)
            found += loop.roles.map { ($0, batch) }
        }
        return found
    }

    /// How many passes run in one go: all of them where each role has a plan of that batch.
    func passesAtOnce(_ loop: Loop, _ passes: Int, _ place: Sizes, _ lowMemory: Bool) -> Int {
        func has(_ batch: Int) -> Bool { loop.roles.allSatisfy { entry($0.component, batch: batch, place) != nil } }
        if lowMemory, passes > 1, has(1) { return 1 }
        return has(passes) ? passes : 1
    }
}
