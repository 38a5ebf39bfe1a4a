/// A request with all that the bundle says for it: what will be drawn, before anything runs.
struct DrawingPlan {
    let width: Int
    let height: Int
    let numbers: Numbers
    let pictures: GivenPictures
    let texts: Texts
    let table: SamplerTable
    /// The calls that are made: later ones where a run begins from a picture.
    let calls: Range<Int>
    /// Whether the run begins from a picture, and whether a part of it alone is drawn anew.
    let begins: Bool
    let isMasked: Bool
    /// Whether the schedule ends before the picture is done.
    let isCut: Bool
    /// Of plans for texts of one chunk.
    let place: Sizes
    /// Rows of a decoder's bands; 0: in one piece.
    let rows: Int
    /// What comes after the loop.
    let last: [Role]
    let previews: Previews
    /// In use, and what a picture's file says of all that were asked for.
    let adapters: [(entry: AdapterEntry, scale: Double)]
    let saidOfAdapters: [String]
    private let made: Set<String>  // values that are there in time
    private let textLength: Int

    enum Previews {
        case none, sum, fast, decoder
    }

    init(_ pipeline: Pipeline, _ request: Request) throws {
        let spec = pipeline.spec
        let bundle = pipeline.bundle
        let scale = spec.latents.scale
        let given = request.givenPictures
        try request.check(spec)
        isCut = request.denoisingEnd != nil
        last = request.fast ? spec.fast : spec.after
        previews = try DrawingPlan.previews(spec, request)
        (adapters, saidOfAdapters) = try DrawingPlan.adapters(bundle, request)
        let usual = try pipeline.sizes.first.map { $0 } ?? DrawingPlan.noSize(bundle)
        var own = spec.pictures.lazy.compactMap { given[$0.name] }.first.map { ($0.width, $0.height) }
        if request.denoisingStart != nil, let shape = request.latents?.shape, shape.count == 4 {
            own = (scale * shape[3], scale * shape[2])
        }
        func side(_ asked: Int?, _ own: Int?, _ usual: Int, _ name: String) throws -> Int {
            let value = asked ?? own.map { max($0 - $0 % scale, scale) } ?? usual
            guard value >= scale, value % scale == 0 else {
                throw PlayerError(
                    .usage, "not a size the model can draw (got \(value), expected a multiple of \(scale)).",
                    at: name, fix: "use \(max((value + scale / 2) / scale, 1) * scale)")
            }
            return value
        }
        let (width, height) = (
            try side(request.width, own?.0, usual.width, "width"),
            try side(request.height, own?.1, usual.height, "height")
        )
        (self.width, self.height) = (width, height)
        let pictures = GivenPictures(spec, given, width: width, height: height, canny: request.canny)
        self.pictures = pictures
        let isMasked = spec.latents.mask.map { pictures.has($0.picture) } ?? false
        self.isMasked = isMasked
        let numbers = try Numbers(spec, request.numbers, width: width, height: height, isMasked: isMasked)
        self.numbers = numbers
        textLength = pipeline.textLength
        place = [
            "height": height / scale, "width": width / scale, "frames": numbers.frames, "tokens": textLength,
        ]
        let made = DrawingPlan.made(spec, pictures, numbers)
        self.made = made
        let canBegin = spec.latents.begin.map { made.contains($0) } ?? false
        if isMasked, !canBegin {
            throw PlayerError(
                .usage, "a mask says which part of a picture is drawn anew, and no picture was given.",
                at: spec.latents.mask!.picture, fix: "give the picture, too, or leave the mask out")
        }
        let strength = spec.latents.strength.map { numbers[$0] } ?? 1
        begins = canBegin && !(isMasked && strength >= 1)  // the mask alone keeps what is kept of it
        (table, calls) = try DrawingPlan.schedule(bundle, spec, request, strength: begins ? strength : nil)
        guard !isMasked || !table.noised.isEmpty else {
            throw PlayerError(
                .usage, "\(table.sampler) at \(table.steps) steps says nothing of masks in this bundle.",
                at: "sampler", fix: "convert the checkpoint again")
        }
        texts = try DrawingPlan.texts(pipeline, request, numbers, place)
        rows = request.fast ? 0 : DrawingPlan.rows(pipeline, place, lowMemory: request.lowMemory)
    }

    private static func noSize(_ bundle: ModelBundle) throws -> (width: Int, height: Int) {
        throw PlayerError(
            .bundle, "it has no plans that draw a picture.", at: bundle.name,
            fix: "convert the checkpoint again")
    }

    // What is made ----------------------------------------------------------------------------------------------------

    /// Which values will be made with the pictures and numbers that were given.
    private static func made(_ spec: PipelineSpec, _ pictures: GivenPictures, _ numbers: Numbers) -> Set<String> {
        var made: Set<String> = ["latents", "timestep"]
        for step in spec.before where isDone(step, made, pictures, numbers) {
            switch step.work {
            case .run(let role): made.formUnion(role.keep.map(\.value))
            case .sample(_, _, _, let keep): made.insert(keep)
            case .noise: break
            }
        }
        for role in spec.denoise.flatMap(\.roles) + spec.after + spec.fast where isRun(role, made, pictures) {
            made.formUnion(role.keep.map(\.value))
        }
        return made
    }

    private static func isDone(
        _ step: Step, _ made: Set<String>, _ pictures: GivenPictures, _ numbers: Numbers
    ) -> Bool {
        if let (number, limit) = step.below, !(numbers[number] < limit) { return false }
        switch step.work {
        case .run(let role): return isRun(role, made, pictures)
        case .sample(let moments, _, _, _): return made.contains(moments)
        case .noise: return true
        }
    }

    /// Whether what a role needs is there: where a picture was not given, what reads it does not run.
    private static func isRun(_ role: Role, _ made: Set<String>, _ pictures: GivenPictures) -> Bool {
        role.feed.allSatisfy { _, feed in
            switch feed {
            case .picture(let name, _): return pictures.has(name)
            case .value(let name, zerosIfAbsent: false): return made.contains(name)
            default: return true
            }
        }
    }

    /// Whether a step before the loop is done.
    func isDone(_ step: Step) -> Bool { DrawingPlan.isDone(step, made, pictures, numbers) }

    func isRun(_ role: Role) -> Bool { DrawingPlan.isRun(role, made, pictures) }

    /// The frames that a role runs for, one run after another.
    func chunks(_ role: Role, _ pipeline: Pipeline) -> [Range<Int>] {
        guard role.inChunks else { return [0..<numbers.frames] }
        var found: [Range<Int>] = []
        var first = 0
        while first < numbers.frames {
            // Without a plan for what is left it is asked for, and refused by its name.
            let count = max(pipeline.chunk(role.component, place, left: numbers.frames - first), 1)
            found.append(first..<first + count)
            first += count
        }
        return found
    }

    // Previews and adapters -------------------------------------------------------------------------------------------

    private static func previews(_ spec: PipelineSpec, _ request: Request) throws -> Previews {
        func refuse(_ what: String, _ fix: String) -> PlayerError {
            PlayerError(.usage, what, at: "preview", fix: fix)
        }
        guard request.previewEvery > 0 else { return .none }
        let hasSum = !spec.latents.preview.isEmpty
        switch request.previewBy {
        case .sum:
            guard hasSum else {
                let what = "no sum of this model's channels is known to be a picture."
                throw refuse(what, spec.fast.isEmpty ? "convert with --taesd" : "use the fast decoder")
            }
        case .fast:
            guard !spec.fast.isEmpty else { throw refuse("this bundle has no fast decoder.", "convert with --taesd") }
        case .usual: if !hasSum, spec.fast.isEmpty { return .decoder }
        }
        if hasSum, request.previewBy != .fast { return .sum }
        var known: Set<String> = ["latents"]
        for role in spec.fast {
            for (port, feed) in role.feed {
                if case .value(let name, _) = feed, known.contains(name) { continue }
                let what = "the fast decoder reads \(port), which is not there before a picture is drawn."
                throw refuse(what, "draw without previews")
            }
            known.formUnion(role.keep.map(\.value))
        }
        return .fast
    }

    private static let mostScale = 1e4  // of an adapter

    private static func adapters(
        _ bundle: ModelBundle, _ request: Request
    ) throws -> ([(entry: AdapterEntry, scale: Double)], [String]) {
        let known = bundle.manifest.adapters
        var found: [(entry: AdapterEntry, scale: Double)] = []
        var said: [String] = []
        for (number, (name, asked)) in request.adapters.enumerated() {
            func refuse(_ what: String, _ fix: String) -> PlayerError {
                PlayerError(.usage, what, at: String(name.prefix(200)), fix: fix)
            }
            guard let entry = known.first(where: { Exact($0.name) == Exact(name) }) else {
                let have = known.isEmpty ? "none" : known.map(\.name).joined(separator: ", ")
                throw refuse(
                    "there is no adapter of that name in \(bundle.name) (it carries \(have)).",
                    known.isEmpty ? "convert with --carry-lora" : "name one of these")
            }
            let scale = asked ?? entry.scale
            guard abs(scale) <= mostScale else {
                throw refuse("\(short(scale)) is no scale (expected a number such as 0.8).", "use 1")
            }
            guard !request.adapters[..<number].contains(where: { Exact($0.name) == Exact(name) }) else {
                throw refuse("it is there twice.", "name each once")
            }
            said.append("\(name):\(short(scale))")
            // Of nothing there is nothing to add: not even another rounding.
            if scale != 0 { found.append((entry, scale)) }
        }
        return (found, said)
    }

    // Texts -----------------------------------------------------------------------------------------------------------

    /// The sizes of plans that run for a part of a text.
    func place(_ part: Int?) -> Sizes { place.merging(["tokens": texts.chunks(part) * textLength]) { $1 } }

    /// Those of all parts, each once.
    var places: [Sizes] {
        var found: [Sizes] = []
        for part in texts.parts.indices where !found.contains(place(part)) { found.append(place(part)) }
        return found
    }

    /// The runs of a loop's roles in a call; of one group are those whose texts have the same number of chunks.
    func groups(_ loop: Loop, _ numbers: Numbers) -> [[Spoken]] {
        var found: [[Spoken]] = []
        for run in loop.spoken(numbers, texts) {
            if let i = found.firstIndex(where: { texts.chunks($0[0].part) == texts.chunks(run.part) }) {
                found[i].append(run)
            } else {
                found.append([run])
            }
        }
        return found
    }

    private static func texts(
        _ pipeline: Pipeline, _ request: Request, _ numbers: Numbers, _ place: Sizes
    ) throws -> Texts {
        var inUse: [String] = []
        for loop in pipeline.spec.denoise {
            var passes = loop.passesInUse(numbers)
            if let guided = loop.guided, numbers.hasWindow(guided.number) { passes = loop.passes }
            for text in passes.compactMap(\.text) where !inUse.contains(text) { inUse.append(text) }
        }
        let texts = try Texts(
            pipeline.spec, pipeline.vocabularies, texts: inUse, given: request.texts, emphasis: request.emphasis,
            long: request.longTexts, most: pipeline.mostChunks(place))
        for loop in pipeline.spec.denoise {
            guard let guided = loop.guided, loop.passes.count > 1 else { continue }
            let runsAlone = loop.passesInUse(numbers).count == 1 || numbers.hasWindow(guided.number)
            if runsAlone, let text = loop.passes[guided.alone].text, texts.numbers(of: text).count > 1 {
                throw PlayerError(
                    .usage, "AND joins texts by guidance, and there is none here.", at: text,
                    fix: "use a guidance above 1, or write `and`")
            }
        }
        return texts
    }

    // The schedule ----------------------------------------------------------------------------------------------------

    /// The sampler's table, and the calls of it that are made. From a picture a sampler without memory is needed: where
    /// the default is none, `ddim`.
    private static func schedule(
        _ bundle: ModelBundle, _ spec: PipelineSpec, _ request: Request, strength: Double?
    ) throws -> (SamplerTable, Range<Int>) {
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
        var first = 0
        if let strength {
            if table.begins.isEmpty {
                guard request.sampler == nil, let other = try read("ddim"), !other.begins.isEmpty else {
                    throw PlayerError(
                        .usage, "\(sampler) cannot begin from a picture.", at: "sampler",
                        fix: "use ddim, euler or euler_a")
                }
                table = other
            }
            let steps = Double(table.steps)
            let wanted = steps * min(max(strength, 0), 1)
            let left = spec.latents.roundsUp ? table.steps - Int(steps - wanted) : Int(wanted)
            guard left > 0, table.steps - left < table.calls.count else {
                throw PlayerError(
                    .usage, "nothing is left to draw (got \(strength) of \(table.steps) steps).",
                    at: spec.latents.strength!, fix: "use a larger one, or more steps")
            }
            first = table.steps - left
        }
        return (table, try table.part(from: first, start: request.denoisingStart, end: request.denoisingEnd))
    }

    private static func rows(_ pipeline: Pipeline, _ place: Sizes, lowMemory: Bool) -> Int {
        let have = pipeline.bandRows(place)
        let frames = place["frames"] ?? 1
        let isWhole = pipeline.chunk(pipeline.spec.decoder.component, place, left: frames) > 0
        if isWhole { return lowMemory ? have.min() ?? 0 : 0 }
        return (lowMemory ? have.min() : have.max()) ?? 0
    }
}
