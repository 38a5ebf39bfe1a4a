import Foundation

/// One drawing: the pipeline's `before` and the loop; what comes after it is in After.swift.
final class Drawing {
    let pipeline: Pipeline
    let request: Request
    let plan: DrawingPlan
    let spec: PipelineSpec
    let session: Session
    let values: Values
    private let progress: (DrawingProgress) -> Void
    private(set) var stages: [Stage] = []  // of a decoder in bands
    private var called = 0
    private let clock = Stopwatch()

    init(_ pipeline: Pipeline, _ request: Request, _ plan: DrawingPlan, _ progress: @escaping (DrawingProgress) -> Void)
    {
        self.pipeline = pipeline
        self.request = request
        self.plan = plan
        self.progress = progress
        spec = pipeline.spec
        session = pipeline.session
        values = Values(
            spec, pipeline.vocabularies, plan.texts, plan.pictures, numbers: plan.numbers,
            noise: Noise(request.seeds))
    }

    func run() throws -> Drawn {
        // Everything that will run is read, and what the device has not is refused, before anything runs.
        for (role, batch, place) in pipeline.runs(plan, lowMemory: request.lowMemory)
        where plan.rows == 0 || role.component != spec.decoder.component {
            _ = try self.plan(role, batch, place)
        }
        if plan.rows > 0 {
            stages = try pipeline.bundle.stages(
                height: plan.place["height"]!, width: plan.place["width"]!, rows: plan.rows)
        }
        session.changing = { [unowned self] in say("adapters: \($0) of \($1) weights") }
        defer { session.changing = { _, _ in } }
        session.adapt(plan.adapters)
        let noise = try before()
        releaseIfLow()
        let secondsToFirstStep = clock.seconds
        let final = try denoise(noise)
        values.numbers.leave()
        releaseIfLow()
        let afterSteps = clock.seconds
        let frames = plan.isCut ? [] : try after(final)
        return Drawn(
            frames: frames, latents: Tensor(final, latentShape), facts: try facts(), notes: plan.texts.notes,
            secondsToFirstStep: secondsToFirstStep, secondsOfSteps: afterSteps - secondsToFirstStep,
            secondsOfDecoder: clock.seconds - afterSteps)
    }

    private func facts() throws -> PictureFacts {
        let isGuided = spec.denoise.contains { $0.passesInUse(plan.numbers).count > 1 }
        let strength = spec.latents.strength ?? "strength"
        var facts = PictureFacts()
        facts.prompt = request.prompt
        facts.negativePrompt = isGuided ? request.negativePrompt ?? "" : ""
        facts.steps = plan.table.steps
        facts.sampler = plan.table.sampler
        facts.guidanceScale = plan.numbers["guidance_scale"]
        if spec.number("guidance_scale") == nil { facts.guidanceScale = 1 }
        facts.seeds = request.seeds
        if plan.texts.areWeighted(request.texts) { facts.emphasis = request.emphasis }
        facts.isLong = plan.texts.parts.indices.contains { plan.texts.chunks($0) > 1 }
        facts.parts["denoising_start"] = request.denoisingStart
        facts.parts["denoising_end"] = request.denoisingEnd
        (facts.width, facts.height) = (plan.width, plan.height)
        let isBegun = request.image != nil || request.pictures["image"] != nil
        facts.strength = isBegun && spec.latents.strength != nil ? plan.numbers[strength] : nil
        facts.isNegativeGiven = request.negativePrompt == "" && plan.texts.standsForZeros("negative_prompt", spec)
        facts.canny = request.canny
        facts.isFast = request.fast
        facts.adapters = plan.saidOfAdapters
        facts.numbers = request.numbers.filter { $0.key != "guidance_scale" && $0.key != strength }
        facts.model = pipeline.bundle.manifest.source
        if case .object(let config) = try pipeline.bundle.object(Manifest.scheduler) { facts.config = config }
        return facts
    }

    var latentShape: [Int] {
        [plan.numbers.frames, spec.latents.channels, plan.place["height"]!, plan.place["width"]!]
    }

    private func releaseIfLow() {
        if request.lowMemory { session.release() }
    }

    func say(_ stage: String, secondsLeft: Double? = nil, preview: Pixels? = nil) {
        progress(
            DrawingProgress(
                stage: stage, done: called, calls: plan.calls.count, secondsLeft: secondsLeft, preview: preview))
    }

    /// The plan that a role runs by.
    func plan(_ role: Role, _ batch: Int, _ place: Sizes) throws -> Plan {
        try pipeline.bundle.plan(role.component, pipeline.sizes(role.component, batch: batch, place))
    }

    // Before ----------------------------------------------------------------------------------------------------------

    /// All that comes before the loop; gives the noise that it begins with.
    private func before() throws -> [Float] {
        var start: [Float]?
        for step in spec.before where plan.isDone(step) {
            switch step.work {
            case .noise:
                start =
                    try given()
                    ?? values.noise.initial(
                        latentShape.reduce(1, *), height: plan.place["height"]!, width: plan.place["width"]!)
            case .sample(let moments, let draw, let scaled, let keep):
                values.keep(keep, sample(values.get(moments)!, draw && values.noise.drawsEncodings, scaled))
            case .run(let role):
                if role.every == .text {
                    for part in plan.texts.parts.indices { try run(role, part, plan.place(part)) }
                } else {
                    try run(role, nil, plan.place)
                }
            }
        }
        values.noise.enterLoop()
        guard let noise = try start ?? given() else {
            throw PlayerError(
                .usage, "this model goes on from latents, and none were given.", at: "latents",
                fix: "give those of the model before it")
        }
        return noise
    }

    private func given() throws -> [Float]? {
        guard let latents = request.latents else { return nil }
        guard latents.dtype == .f32, latents.shape == latentShape, latents.notFinite == 0 else {
            throw PlayerError(
                .usage, "wrong latents (got \(latents.dtype)\(latents.shape), expected f32\(latentShape), finite).",
                at: "latents", fix: "give latents of the picture's size divided by \(spec.latents.scale)")
        }
        return latents.floats
    }

    /// Latents of an encoder's moments [1, 2c, h, w]: a mean and the logarithm of a variance.
    private func sample(_ moments: Tensor, _ draw: Bool, _ scaled: Bool) -> Tensor {
        let parts = moments.floats
        let count = parts.count / 2
        var result = Array(parts[..<count])
        if draw {
            let normal = values.noise.draw(count)
            for i in 0..<count {
                let logarithm = min(max(Double(parts[count + i]), -30), 20)
                let deviation = Float(exp(0.5 * logarithm))
                result[i] = result[i] + deviation * normal[i]
            }
        }
        if scaled { result = result.map { spec.latents.scaling * ($0 - spec.latents.shift) } }
        return Tensor(result, [1, moments.shape[1] / 2] + moments.shape[2...])
    }

    /// Run a role outside the loop, for a part of a text; what it would make of a text that was not given may be zeros.
    func run(_ role: Role, _ part: Int?, _ place: Sizes) throws {
        let rolePlan = try plan(role, 1, place)
        if values.standsForZeros(role, part) {
            for (port, value) in role.keep {
                let operand = rolePlan.output(port)!
                values.keep(value, .zeros(operand.dtype, operand.shape), part: part)
            }
            return
        }
        say(role.component)
        let outputs = try encoded(role, rolePlan, part)
        for (port, value) in role.keep {
            try checkFinite(outputs[port]!, "\(role.component)'s \(port)")
            values.keep(value, outputs[port]!, part: role.every == .text ? part : nil)
        }
    }

    /// What a role makes of a part of a text, or of none: of several chunks and of weighted ones the states are put
    /// together, and of all else the first chunk's is kept (docs/pipeline.md, "Texts").
    private func encoded(_ role: Role, _ rolePlan: Plan, _ part: Int?) throws -> [Exact: Tensor] {
        func run(_ chunk: Int, _ tokens: [Token]?) throws -> [Exact: Tensor] {
            let fed = values.feeds(role, rolePlan, part: part, chunk: chunk, tokens: tokens)
            return try session.run(role.component, rolePlan.sizes, fed)
        }
        var outputs = try run(0, nil)
        guard let part, let name = role.tokenizer, let vocabulary = pipeline.vocabularies[name] else { return outputs }
        let emphasis = plan.texts.emphasis
        let chunks = (0..<plan.texts.chunks(part)).map { plan.texts.parts[part].tokens(name, $0) }
        let isWeighted = emphasis != .none && chunks.joined().contains { $0.weight != 1 }
        guard chunks.count > 1 || isWeighted else { return outputs }
        var known: [[Int32]: [Exact: Tensor]] = [vocabulary.padded(chunks[0]): outputs]
        for (port, first) in outputs where first.shape.count == 3 && first.shape[..<2] == [1, vocabulary.length] {
            var states: [Float] = []
            for (number, chunk) in chunks.enumerated() {
                states += try emphasis.states(chunk, vocabulary) { tokens in
                    let ids = vocabulary.padded(tokens)
                    let made = try known[ids] ?? run(number, tokens)
                    known[ids] = made
                    return made[port]!.floats
                }
            }
            outputs[port] = Tensor(states, [1, chunks.count * vocabulary.length, first.shape[2]], first.dtype)
        }
        return outputs
    }

    func checkFinite(_ tensor: Tensor, _ place: String) throws {
        let bad = tensor.notFinite
        guard bad == 0 else {
            throw PlayerError(
                .numeric, "\(bad) of \(tensor.count) values are NaN or infinite.", at: place,
                fix: "convert with --dtype fp32")
        }
    }

    // The loop --------------------------------------------------------------------------------------------------------

    private func denoise(_ noise: [Float]) throws -> [Float] {
        let calls = plan.calls
        let clean = spec.latents.begin.flatMap { values.get($0)?.floats }.map { cycled($0, noise.count) }
        let mask = plan.isMasked ? cycled(plan.pictures.tensor(spec.latents.mask!.picture).floats, noise.count) : nil
        let begin = clock.seconds
        say("step 1 of \(calls.count)")
        return try plan.table.replay(
            calls,
            slot: plan.table.start(
                noise, image: plan.begins ? clean : nil, call: calls.lowerBound,
                asItIs: request.denoisingStart != nil),
            predict: { try predict($0, $1, $2) },
            draw: { values.noise.draw(noise.count) },
            after: { call, latents in
                called = call + 1
                try checkFinite(Tensor(latents, latentShape), "step \(called) of \(calls.count)")
                if let mask, let clean {
                    plan.table.putBack(calls.lowerBound + call, &latents, mask: mask, clean: clean, noise: noise)
                }
                let each = (clock.seconds - begin) / Double(called)
                let isLast = called == calls.count
                let isShown = request.previewEvery > 0 && (called % request.previewEvery == 0 || isLast)
                let next = isLast ? plan.last[plan.last.count - 1].component : "step \(called + 1) of \(calls.count)"
                let picture = try isShown ? preview(latents) : nil
                say(next, secondsLeft: each * Double(calls.count - called), preview: picture)
            })
    }

    /// The same for each frame.
    private func cycled(_ values: [Float], _ count: Int) -> [Float] {
        (0..<count).map { values[$0 % values.count] }
    }

    private func predict(_ call: Int, _ input: [Float], _ timestep: Float) throws -> [Float] {
        values.numbers.enter(call: call, of: plan.calls.count)
        values.keep("latents", Tensor(input, latentShape))
        values.keep("timestep", Tensor([timestep], [1]))
        let part = Double(call) / Double(plan.calls.count)
        let numbers = values.numbers
        let loop = spec.denoise.first { numbers.of($0.from) <= part && part < numbers.of($0.until) }
        guard let loop else {
            throw PlayerError(
                .usage, "no part of the pipeline runs at \(short(part)) of the schedule.", at: "pipeline",
                fix: "choose other parts, from 0 to 1")
        }
        // Texts of one length run together.
        var outputs: [[Float]] = []
        var runs: [Spoken] = []
        for group in plan.groups(loop, numbers) {
            let place = plan.place(group[0].part)
            let roles = loop.roles.filter(plan.isRun)
            let isAtOnce = pipeline.passesAtOnce(roles, group.count, place, request.lowMemory) == group.count
            for passes in isAtOnce ? [group] : group.map({ [$0] }) {
                outputs += try run(loop, passes, place)
                runs += passes
            }
        }
        let order = runs.indices.sorted { (runs[$0].pass, runs[$0].part ?? 0) < (runs[$1].pass, runs[$1].part ?? 0) }
        return loop.combined(order.map { outputs[$0] }, order.map { runs[$0] }, numbers)
    }

    /// The predictions of some passes that run at once.
    private func run(_ loop: Loop, _ passes: [Spoken], _ place: Sizes) throws -> [[Float]] {
        for role in loop.roles where plan.isRun(role) {
            let rolePlan = try plan(role, passes.count, place)
            let made = try session.run(
                role.component, rolePlan.sizes, values.feeds(role, rolePlan, passes: passes))
            for (port, value) in role.keep { values.keep(value, made[port]!) }
        }
        defer { values.drop(loop.roles) }  // so that the next passes' do not lie beside them
        return values.get(loop.prediction)!.split(passes.count).map(\.floats)
    }
}

/// Seconds since it was made, by a clock that only goes forward.
struct Stopwatch {
    private let begin = DispatchTime.now().uptimeNanoseconds

    var seconds: Double { Double(DispatchTime.now().uptimeNanoseconds - begin) / 1e9 }
}
