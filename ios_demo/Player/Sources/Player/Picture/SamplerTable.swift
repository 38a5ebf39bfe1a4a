/// A sampler at a number of steps, as a table of coefficients (docs/samplers.md).
public struct SamplerTable: Sendable {
    struct Row: Sendable {
        let slot: Int
        let terms: [(source: Int, weight: Float)]
    }
    struct Call: Sendable {
        let timestep: Float
        let inputScale: Float
        let sample: Int
        let drawsNoise: Bool
        let rows: [Row]
    }

    public let sampler: String
    public let steps: Int
    let slots: Int
    let startImage: Float
    let startNoise: Float
    let calls: [Call]
    let result: Int
    /// Of a sampler without memory: slot 0 where a run begins at a call, by factors of image and noise.
    let begins: [(image: Float, noise: Float)]
    /// The same where each call leads; empty in tables of older bundles.
    let noised: [(image: Float, noise: Float)]
    /// Timesteps of the training schedule; nil in tables of older bundles.
    let trainSteps: Int?

    static let model = -1
    static let noise = -2

    /// - Throws: `PlayerError` of the kind `bundle`: the first thing that cannot be replayed.
    public init(_ value: JSON, at file: String) throws {
        let check = Checker(file: file)
        let fields = ["sampler", "steps", "slots", "start_image", "start_noise", "calls", "result"]
        let top = try SamplerTable.record(check, value, fields, optional: ["begins", "noised", "train_steps"], .top)
        func part(_ key: String) -> (JSON, Place) { (top[Exact(key)]!, Place.top[key]) }

        let (name, namePlace) = part("sampler")
        sampler = try check.identifier(name, namePlace)
        guard sampler.utf8.count <= 40 else { throw check.fault("is too long (expected 40 letters)", namePlace) }
        steps = try check.integer(part("steps").0, 1, 20_000, part("steps").1)
        slots = try check.integer(part("slots").0, 1, 16, part("slots").1)
        startImage = try SamplerTable.number(check, part("start_image").0, part("start_image").1)
        startNoise = try SamplerTable.number(check, part("start_noise").0, part("start_noise").1)
        var reader = Reader(check: check, slots: slots)
        let (calls, callsPlace) = part("calls")
        self.calls = try check.list(calls, 1...20_000, callsPlace).enumerated().map {
            try reader.call($1, callsPlace[$0])
        }
        result = try reader.source(part("result").0, 0, false, part("result").1)
        begins = try SamplerTable.begins(check, top["begins"] ?? .list([]), slots, self.calls.count)
        noised = try SamplerTable.pairs(check, top["noised"] ?? .list([]), self.calls.count, Place.top["noised"])
        trainSteps = try top["train_steps"].map { try check.integer($0, 1, 100_000, Place.top["train_steps"]) }
    }

    /// What slot 0 holds before the first call that is made: from noise alone, or at a call from a picture's latents;
    /// or latents that another run left, as they are.
    func start(_ noise: [Float], image: [Float]? = nil, call: Int = 0, asItIs: Bool = false) -> [Float] {
        if asItIs { return noise }
        guard let image else { return noise.map { startNoise * $0 } }
        let (pictureFactor, noiseFactor) = begins[call]
        return zip(image, noise).map { pictureFactor * $0 + noiseFactor * $1 }
    }

    /// The calls of a part of the schedule, where it is cut in two.
    ///
    /// - Parameters:
    ///   - first: the first call that is made without a `start`.
    ///   - start, end: parts of the schedule, by timesteps.
    /// - Throws: `PlayerError` of the kind `usage` where the table cannot be cut so.
    func part(from first: Int = 0, start: Double?, end: Double?) throws -> Range<Int> {
        guard start != nil || end != nil else { return first..<calls.count }
        guard let trainSteps, start == nil || !begins.isEmpty else {
            throw PlayerError(
                .usage, "\(sampler) at \(steps) steps cannot be cut in two.", at: "sampler",
                fix: "choose a sampler whose table has `begins`, such as euler")
        }
        /// How many calls have a timestep from the cutoff on.
        func count(from part: Double) -> Int {
            let all = Double(trainSteps)
            let cutoff = (all - part * all).rounded(.toNearestOrEven)
            return calls.filter { Double($0.timestep) >= cutoff }.count
        }
        let (from, until) = (start.map(count) ?? first, end.map(count) ?? calls.count)
        guard from < until else {
            throw PlayerError(
                .usage, "there is no timestep in this part of the schedule.",
                at: start == nil ? "denoising_end" : "denoising_start",
                fix: "use more steps, or parts that are further apart")
        }
        return from..<until
    }

    /// What is kept of a picture after a call, where its mask is not: as noisy as the call leaves the rest.
    func putBack(_ call: Int, _ sample: inout [Float], mask: [Float], clean: [Float], noise: [Float]) {
        let level = noised[call]
        for i in sample.indices {
            let kept = level.image * clean[i] + level.noise * noise[i]
            sample[i] = (1 - mask[i]) * kept + mask[i] * sample[i]
        }
    }

    /// Replay some calls, to where the last of them leads.
    ///
    /// - Parameters:
    ///   - slot: what slot 0 holds (`start`).
    ///   - predict: the network: number of the call, of those that are made, its input and timestep.
    ///   - draw: one draw of noise.
    ///   - after: told after each call what the next one begins with, which it may change.
    func replay(
        _ made: Range<Int>, slot: [Float], predict: (Int, [Float], Float) throws -> [Float], draw: () -> [Float],
        after: (Int, inout [Float]) throws -> Void
    ) rethrows -> [Float] {
        var held = [[Float]](repeating: [], count: slots)
        held[0] = slot
        func leads(_ call: Int) -> Int { call + 1 < calls.count ? calls[call + 1].sample : result }
        for (number, call) in calls[made].enumerated() {
            let scale = call.inputScale
            let output = try predict(number, held[call.sample].map { $0 * scale }, call.timestep)
            let noise = call.drawsNoise ? draw() : []
            for row in call.rows {
                var sum = [Float](repeating: 0, count: output.count)
                for (source, weight) in row.terms {
                    let values =
                        source == SamplerTable.model ? output : source == SamplerTable.noise ? noise : held[source]
                    for i in sum.indices { sum[i] = sum[i] + weight * values[i] }
                }
                held[row.slot] = sum
            }
            try after(number, &held[leads(made.lowerBound + number)])
        }
        return held[leads(made.upperBound - 1)]
    }

    // Reading ---------------------------------------------------------------------------------------------------------

    private struct Reader {
        let check: Checker
        let slots: Int
        var written: Set<Int> = [0]

        mutating func call(_ value: JSON, _ at: Place) throws -> Call {
            let fields = ["timestep", "input_scale", "sample", "draws_noise", "rows"]
            let call = try SamplerTable.record(check, value, fields, at)
            let draws = try check.bool(call["draws_noise"]!, at["draws_noise"])
            let sample = try source(call["sample"]!, 0, draws, at["sample"])
            let rows = try check.list(call["rows"]!, 1...8, at["rows"]).enumerated().map { i, value -> Row in
                let place = at["rows"][i]
                let row = try SamplerTable.record(check, value, ["slot", "terms"], place)
                let slot = try check.integer(row["slot"]!, 0, slots - 1, place["slot"])
                let terms = try check.list(row["terms"]!, 0...20, place["terms"]).enumerated().map { k, term in
                    let pair = try check.list(term, 2...2, place["terms"][k])
                    return (
                        source: try source(pair[0], SamplerTable.noise, draws, place["terms"][k]),
                        weight: try SamplerTable.number(check, pair[1], place["terms"][k])
                    )
                }
                written.insert(slot)
                return Row(slot: slot, terms: terms)
            }
            return Call(
                timestep: try SamplerTable.number(check, call["timestep"]!, at["timestep"]),
                inputScale: try SamplerTable.number(check, call["input_scale"]!, at["input_scale"]),
                sample: sample, drawsNoise: draws, rows: rows)
        }

        func source(_ value: JSON, _ low: Int, _ draws: Bool, _ at: Place) throws -> Int {
            let source = try check.integer(value, low, slots - 1, at)
            guard source < 0 || written.contains(source) else {
                throw check.fault("is slot \(source), which is read before it is written", at)
            }
            guard source != SamplerTable.noise || draws else { throw check.fault("is noise that is not drawn", at) }
            return source
        }
    }

    /// None, or a pair for each call; a table of more slots would read some before they are written.
    private static func begins(
        _ check: Checker, _ value: JSON, _ slots: Int, _ calls: Int
    ) throws -> [(image: Float, noise: Float)] {
        let at = Place.top["begins"]
        let rows = try check.list(value, 0...calls, at)
        guard rows.isEmpty || (rows.count == calls && slots == 1) else {
            let what =
                "has \(rows.count) pairs for \(calls) calls and \(slots) slots (expected one per call, and one slot)"
            throw check.fault(what, at)
        }
        return try pairs(check, value, calls, at)
    }

    /// None, or the factors of image and noise for each call.
    private static func pairs(
        _ check: Checker, _ value: JSON, _ calls: Int, _ at: Place
    ) throws -> [(image: Float, noise: Float)] {
        let rows = try check.list(value, 0...calls, at)
        guard rows.isEmpty || rows.count == calls else {
            throw check.fault("has \(rows.count) pairs for \(calls) calls (expected one per call)", at)
        }
        return try rows.enumerated().map { i, row in
            let pair = try check.list(row, 2...2, at[i])
            return (try number(check, pair[0], at[i]), try number(check, pair[1], at[i]))
        }
    }

    /// An object with these fields and no others.
    private static func record(
        _ check: Checker, _ value: JSON, _ fields: [String], optional: [String] = [], _ at: Place
    ) throws -> JSONObject {
        let object = try check.object(value, at)
        for field in fields { _ = try check.field(object, field, at) }
        for key in object.keys where !(fields + optional).contains(where: { Exact($0) == key }) {
            throw check.fault("is no field of a sampler's table", at[key.text])
        }
        return object
    }

    /// A number that a player can hold: beyond 1e30 its products might be infinite.
    private static func number(_ check: Checker, _ value: JSON, _ at: Place) throws -> Float {
        switch value {
        case .integer(let whole) where abs(Double(whole)) <= 1e30: return Float(Double(whole))
        case .real(let real) where abs(real) <= 1e30: return Float(real)
        default: throw check.fault("is \(value.shown) (expected a number that a float32 holds)", at)
        }
    }
}
