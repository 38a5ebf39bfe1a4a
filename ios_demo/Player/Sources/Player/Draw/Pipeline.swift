import Foundation
import Metal

/// Draws pictures with a bundle: text to picture, by the words of docs/pipeline.md. It knows no family of models.
///
/// One drawing at a time, on any thread but one that must not wait; `cancel` may be called from any.
public final class Pipeline: @unchecked Sendable {
    public let bundle: ModelBundle
    public let session: Session
    let spec: PipelineSpec
    let vocabularies: [String: Vocabulary]
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
        session = try Session(bundle, device: device)
        var vocabularies: [String: Vocabulary] = [:]
        for (name, entry) in bundle.manifest.tokenizers {
            let place = "tokenizers/\(name)"
            let files = try bundle.tokenizerFiles(name).mapValues { $0.with { [UInt8]($0) } }
            vocabularies[name] =
                entry.kind == "unigram"
                ? try UnigramTokenizer(files, length: entry.length, at: place)
                : try Tokenizer(files, length: entry.length, at: place)
        }
        self.vocabularies = vocabularies
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
}

extension Pipeline {
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

    /// Adapters that the bundle carries.
    public var adapters: [AdapterEntry] { bundle.manifest.adapters }

    /// Whether it has a decoder that is sooner done and not as exact.
    public var hasFastDecoder: Bool { !spec.fast.isEmpty }

    /// Pictures that ControlNets look at, in the order of these.
    public var controls: [String] { Request.nets.filter { spec.picture($0) != nil } }

    /// What a request needs at most, before anything is loaded: bytes of the arena; of the files of weights, which are
    /// mapped and which the system may drop; and of weights that adapters change, which are not.
    ///
    /// - Throws: `PlayerError` where it cannot be drawn.
    public func memory(_ request: Request) throws -> (arena: Int, weights: Int, changed: Int) {
        let plan = try DrawingPlan(self, request)
        let with = plan.adapters.isEmpty ? nil : ChangedWeights(bundle, plan.adapters)
        var arena = 0
        var shards: [String: Int] = [:]
        var changed: [Exact: Int] = [:]
        func count(_ plan: Plan) {
            arena = max(arena, plan.arena)
            for operand in plan.operands {
                guard case .weight(let key) = operand.home, let entry = bundle.manifest.weights[key] else { continue }
                shards[entry.file] = bundle.manifest.files[entry.file]?.bytes ?? 0
                if let with, with.has(key) { changed[key] = entry.bytes }
            }
        }
        for (role, batch, place) in runs(plan, lowMemory: request.lowMemory) {
            if plan.rows > 0, role.component == spec.decoder.component {
                let stages = try bundle.stages(
                    height: plan.place["height"]!, width: plan.place["width"]!, rows: plan.rows)
                stages.forEach { count($0.plan) }
            } else {
                count(try bundle.plan(role.component, sizes(role.component, batch: batch, place)))
            }
        }
        return (arena, shards.values.reduce(0, +), changed.values.reduce(0, +))
    }
}
