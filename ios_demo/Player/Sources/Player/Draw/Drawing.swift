import Foundation

/// One drawing: the pipeline's `before`, the loop, and `after`.
final class Drawing {
    private let pipeline: Pipeline
    private let request: Request
    private let plan: DrawingPlan
    private let progress: (DrawingProgress) -> Void
    private let spec: PipelineSpec
    private let session: Session
    private let values: Values
    private let calls: Int
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
        calls = plan.table.calls.count - plan.firstCall
        let image = request.image?.resized(width: plan.width, height: plan.height).tensor
        values = Values(
            spec, tokenizers: pipeline.tokenizers, texts: request.texts, image: image,
            numbers: plan.numbers, noise: Noise(seed: request.seed))
    }

    func run() throws -> Drawn {
        // Everything that will run is read, and what the device has not is refused, before anything runs.
        for (role, batch) in pipeline.runs(plan, request)
        where plan.rows == 0 || role.component != spec.decoder.component {
            _ = try pipeline.bundle.plan(role.component, pipeline.sizes(role.component, batch: batch, plan.place))
        }
        let stages =
            plan.rows == 0
            ? []
            : try pipeline.bundle.stages(
                height: plan.place["height"]!, width: plan.place["width"]!, rows: plan.rows)
        let noise = try before()
        releaseIfLow()
        let secondsToFirstStep = clock.seconds
        let final = try denoise(noise)
        releaseIfLow()
        let afterSteps = clock.seconds
        let shape = latentShape
        let pixels = try decode(final.map { $0 / spec.latents.scaling + spec.latents.shift }, stages)
        return Drawn(
            pixels: pixels, latents: Tensor(final, shape), facts: try facts(), secondsToFirstStep: secondsToFirstStep,
            secondsOfSteps: afterSteps - secondsToFirstStep, secondsOfDecoder: clock.seconds - afterSteps)
    }

    private func facts() throws -> PictureFacts {
        let isGuided = spec.denoise.contains { $0.passesInUse(plan.numbers).count > 1 }
        let strength = spec.latents.strength ?? "strength"
        var facts = PictureFacts()
        facts.prompt = request.prompt
        facts.negativePrompt = isGuided ? request.negativePrompt ?? "" : ""
        facts.steps = plan.table.steps
        facts.sampler = plan.table.sampler
        facts.guidanceScale = plan.numbers["guidance_scale"] ?? 1
        facts.seed = request.seed
        (facts.width, facts.height) = (plan.width, plan.height)
        facts.strength = request.image == nil ? nil : plan.numbers[strength]
        facts.numbers = request.numbers.filter { $0.key != "guidance_scale" && $0.key != strength }
        facts.model = pipeline.bundle.manifest.source
        if case .object(let config) = try pipeline.bundle.object(Manifest.scheduler) { facts.config = config }
        return facts
    }

    private var latentShape: [Int] { [1, spec.latents.channels, plan.place["height"]!, plan.place["width"]!] }

    private func releaseIfLow() {
        if request.lowMemory { session.release() }
    }

    private func say(_ stage: String, secondsLeft: Double? = nil, preview: Pixels? = nil) {
        progress(DrawingProgress(stage: stage, done: called, calls: calls, secondsLeft: secondsLeft, preview: preview))
    }

    // Before ----------------------------------------------------------------------------------------------------------

    /// All that comes before the loop; gives the noise that it begins with.
    private func before() throws -> [Float] {
        var start: [Float]?
        let used = spec.denoise.flatMap { $0.passesInUse(plan.numbers) }.compactMap(\.text)
        var texts: [String] = []
        for text in used where !texts.contains(text) { texts.append(text) }
        for step in spec.before where step.isDone(plan.numbers) {
            switch step.work {
            case .noise: start = try given() ?? values.noise.draw(latentShape.reduce(1, *))
            case .sample(let moments, let draw, let scaled, let keep):
                if let value = values.get(moments) { values.keep(keep, sample(value, draw, scaled)) }
            case .run(let role):
                guard values.runs(role) else { continue }
                if role.every == .text {
                    for text in texts { try run(role, text) }
                } else {
                    try run(role, nil)
                }
            }
        }
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

    /// Run a role outside the loop, for a text; what it would make of a text that was not given may be zeros.
    private func run(_ role: Role, _ text: String?) throws {
        let sizes = pipeline.sizes(role.component, batch: 1, plan.place)
        if values.standsForZeros(role, text) {
            let made = try pipeline.bundle.plan(role.component, sizes)
            for (port, value) in role.keep {
                let operand = made.output(port)!
                values.keep(value, .zeros(operand.dtype, operand.shape), text: text)
            }
            return
        }
        say(role.component)
        let outputs = try session.run(role.component, sizes, try values.feeds(role, text: text) { try zeros(role, $0) })
        for (port, value) in role.keep {
            try checkFinite(outputs[port]!, "\(role.component)'s \(port)")
            values.keep(value, outputs[port]!, text: role.every == .text ? text : nil)
        }
    }

    /// Zeros of a port's shape in one pass.
    private func zeros(_ role: Role, _ port: Exact) throws -> Tensor {
        let single = try pipeline.bundle.plan(role.component, pipeline.sizes(role.component, batch: 1, plan.place))
        return .zeros(single.input(port)!.dtype, single.input(port)!.shape)
    }

    private func checkFinite(_ tensor: Tensor, _ place: String) throws {
        let bad = tensor.notFinite
        guard bad == 0 else {
            throw PlayerError(
                .numeric, "\(bad) of \(tensor.count) values are NaN or infinite.", at: place,
                fix: "convert with --dtype fp32")
        }
    }

    // The loop --------------------------------------------------------------------------------------------------------

    private func denoise(_ noise: [Float]) throws -> [Float] {
        let table = plan.table
        let image = spec.latents.begin.flatMap { values.get($0)?.floats }
        let first = image == nil ? 0 : plan.firstCall
        let begin = clock.seconds
        say("step 1 of \(calls)")
        return try table.replay(
            from: first, slot: table.start(noise, image: image, call: first),
            predict: { try predict($0, $1, $2) },
            draw: { values.noise.draw(noise.count) },
            after: { call, latents in
                called = call + 1
                try checkFinite(Tensor(latents, latentShape), "step \(called) of \(calls)")
                let each = (clock.seconds - begin) / Double(called)
                let isShown = request.previewEvery > 0 && called % request.previewEvery == 0 && called < calls
                let next = called < calls ? "step \(called + 1) of \(calls)" : spec.decoder.component
                say(next, secondsLeft: each * Double(calls - called), preview: isShown ? preview(latents) : nil)
            })
    }

    private func predict(_ call: Int, _ input: [Float], _ timestep: Float) throws -> [Float] {
        values.enter(call: call, of: calls)
        values.keep("latents", Tensor(input, latentShape))
        values.keep("timestep", Tensor([timestep], [1]))
        let part = Double(call) / Double(calls)
        let loop = spec.denoise.first { values.number($0.from) <= part && part < values.number($0.until) }
        guard let loop else {
            throw PlayerError(
                .usage, "no part of the pipeline runs at \(short(part)) of the schedule.", at: "pipeline",
                fix: "choose other parts, from 0 to 1")
        }
        let passes = loop.passesInUse(values.numbers)
        let batch = pipeline.passesAtOnce(loop, passes.count, plan.place, request.lowMemory)
        let groups = batch == passes.count ? [passes] : passes.map { [$0] }
        var outputs: [[Float]] = []
        for group in groups {
            for role in loop.roles {
                let sizes = pipeline.sizes(role.component, batch: group.count, plan.place)
                let fed = try values.feeds(role, passes: group) { try zeros(role, $0) }
                let made = try session.run(role.component, sizes, fed)
                for (port, value) in role.keep { values.keep(value, made[port]!) }
            }
            outputs += values.get(loop.prediction)!.split(group.count).map(\.floats)
        }
        return loop.combined(outputs, values.numbers)
    }

    /// A small picture of the latents, where the pipeline says how they look.
    private func preview(_ latents: [Float]) -> Pixels? {
        let factors = spec.latents.preview
        let channels = spec.latents.channels
        guard factors.count == 3 else { return nil }
        let plane = latents.count / channels
        let colours = factors.flatMap { row in
            (0..<plane).map { i in
                Float((0..<channels).reduce(row[channels]) { $0 + row[$1] * Double(latents[$1 * plane + i]) })
            }
        }
        return Pixels(Tensor(colours, [1, 3] + latentShape[2...]))
    }

    // After -----------------------------------------------------------------------------------------------------------

    private func decode(_ latents: [Float], _ stages: [Stage]) throws -> Pixels {
        values.keep("latents", Tensor(latents, latentShape))
        for role in spec.after.dropLast() where values.runs(role) { try run(role, nil) }
        say(spec.decoder.component)
        let sample: Tensor
        if stages.isEmpty {
            let decoder = spec.decoder
            let sizes = pipeline.sizes(decoder.component, batch: 1, plan.place)
            let fed = try values.feeds(decoder, text: nil) { try zeros(decoder, $0) }
            let made = try session.run(decoder.component, sizes, fed)
            sample = made[decoder.keep.first { $0.value == spec.gives }!.port]!
        } else {
            sample = try BandDecoder(session: session, stages: stages).decode(Tensor(latents, latentShape))
        }
        try checkFinite(sample, "the decoder's output")
        return Pixels(sample)
    }
}

/// Seconds since it was made, by a clock that only goes forward.
struct Stopwatch {
    private let begin = DispatchTime.now().uptimeNanoseconds

    var seconds: Double { Double(DispatchTime.now().uptimeNanoseconds - begin) / 1e9 }
}
