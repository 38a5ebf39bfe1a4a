/// The values of one picture: what roles gave, the user's texts, numbers and pictures, and what a role's ports are fed
/// with (docs/pipeline.md).
final class Values {
    private struct Key: Hashable {
        let name: String
        let part: Int?
    }

    private let spec: PipelineSpec
    private let vocabularies: [String: Vocabulary]
    private let texts: Texts
    private let pictures: GivenPictures
    private var kept: [Key: Tensor] = [:]
    /// Values that there is a row of for each frame, after the loop.
    private let perFrame: Set<String>
    private var knownZeros: [[Int]: [Dtype: Tensor]] = [:]
    /// The frames that a role runs for; nil: all.
    var frames: Range<Int>?
    var numbers: Numbers
    var noise: Noise

    init(
        _ spec: PipelineSpec, _ vocabularies: [String: Vocabulary], _ texts: Texts, _ pictures: GivenPictures,
        numbers: Numbers, noise: Noise
    ) {
        self.spec = spec
        self.vocabularies = vocabularies
        self.texts = texts
        self.pictures = pictures
        self.numbers = numbers
        self.noise = noise
        perFrame = Set((spec.after + spec.fast).filter(\.inChunks).flatMap(\.keep).map(\.value)).union(["latents"])
    }

    func keep(_ name: String, _ value: Tensor, part: Int? = nil) { kept[Key(name: name, part: part)] = value }

    /// A value, if it was made; what is the same for all texts is kept for none.
    func get(_ name: String, part: Int? = nil) -> Tensor? {
        kept[Key(name: name, part: spec.rates[name] == .text ? part : nil)]
    }

    /// Forget what roles made in a call.
    func drop(_ roles: [Role]) {
        for (_, value) in roles.flatMap(\.keep) { kept[Key(name: value, part: nil)] = nil }
    }

    /// Whether a text was not given, and zeros stand for what a role would make of it.
    func standsForZeros(_ role: Role, _ part: Int?) -> Bool {
        guard let part, !texts.parts[part].isGiven else { return false }
        return role.feed.contains {
            if case .tokens(_, zerosIfAbsent: true) = $0.feed { return true } else { return false }
        }
    }

    /// What the ports of a role outside the loop are fed with.
    ///
    /// - Parameter tokens: what the role's text encoder reads; nil: the first chunk.
    func feeds(_ role: Role, _ plan: Plan, part: Int?, chunk: Int = 0, tokens: [Token]? = nil) -> [Exact: Tensor] {
        var fed: [Exact: Tensor] = [:]
        for (port, feed) in role.feed {
            if case .tokens(let name, _) = feed, let part {
                let own = name == role.tokenizer ? tokens : nil
                let ids = vocabularies[name]!.padded(own ?? texts.parts[part].tokens(name, chunk))
                fed[port] = Tensor(ids, [1, ids.count])
            } else {
                fed[port] = one(feed, part) ?? zeros(plan, port, 1)
            }
        }
        return fed
    }

    /// What the ports of a role in the loop are fed with: one value per pass, joined along the first dimension, except
    /// the timestep, which is there once for all.
    func feeds(_ role: Role, _ plan: Plan, passes: [Spoken]) -> [Exact: Tensor] {
        var fed: [Exact: Tensor] = [:]
        for (port, feed) in role.feed {
            var value = ""
            if case .value(let name, _) = feed { value = name }
            if value == "timestep" {
                fed[port] = get(value)!
                continue
            }
            // What a role of this call made is joined already.
            let isJoined = value != "latents" && spec.rates[value] == .call
            let whole = isJoined ? get(value) : nil
            if isJoined, !passes.contains(where: { $0.zeros.contains(value) }) {
                fed[port] = whole ?? zeros(plan, port, 1)
                continue
            }
            let parts = whole?.split(passes.count)
            fed[port] = .joined(
                passes.enumerated().map { i, pass in
                    if pass.zeros.contains(value) { return zeros(plan, port, passes.count) }
                    return (isJoined ? parts?[i] : one(feed, pass.part)) ?? zeros(plan, port, passes.count)
                })
        }
        return fed
    }

    /// Zeros of a port's shape in one of several passes; they are the same in each call.
    private func zeros(_ plan: Plan, _ port: Exact, _ passes: Int) -> Tensor {
        let operand = plan.input(port)!
        let shape: [Int] = [operand.shape[0] / passes] + operand.shape.dropFirst()
        let made = knownZeros[shape]?[operand.dtype] ?? .zeros(operand.dtype, shape)
        knownZeros[shape, default: [:]][operand.dtype] = made
        return made
    }

    private func one(_ feed: Feed, _ part: Int?) -> Tensor? {
        switch feed {
        case .value(let name, _):
            guard let frames, perFrame.contains(name) else { return get(name, part: part) }
            return get(name, part: part)?.rows(frames)
        case .tokens(let name, _):
            let ids = vocabularies[name]!.padded(part.map { texts.parts[$0].tokens(name, 0) } ?? [])
            return Tensor(ids, [1, ids.count])
        case .numbers(let rows):
            let found = rows.map { row -> Float in
                switch row {
                case .same(let amount): return Float(numbers.of(amount))
                case .perText(let amounts):
                    return Float(numbers.of(part.flatMap { amounts[texts.parts[$0].text] } ?? .constant(0)))
                }
            }
            return Tensor(found, [1, found.count])
        case .picture(let name, let amount):
            let picture = pictures.tensor(name)
            guard let amount else { return picture }
            let scale = Float(numbers.of(amount))
            let draw = noise.draw(picture.count)
            return Tensor(zip(picture.floats, draw).map { $0 + scale * $1 }, picture.shape)
        }
    }
}
