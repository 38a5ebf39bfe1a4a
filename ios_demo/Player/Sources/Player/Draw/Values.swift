/// The values of one picture: what roles gave, the user's texts, numbers and picture, and what a role's ports are fed
/// with (docs/pipeline.md).
final class Values {
    private struct Key: Hashable {
        let name: String
        let text: String?
    }

    private let spec: PipelineSpec
    private let tokenizers: [String: Tokenizer]
    private let texts: [String: String]
    private let image: Tensor?
    private let chosen: [String: Double]
    private(set) var numbers: [String: Double]
    private var kept: [Key: Tensor] = [:]
    var noise: Noise

    init(
        _ spec: PipelineSpec, tokenizers: [String: Tokenizer], texts: [String: String], image: Tensor?,
        numbers: [String: Double], noise: Noise
    ) {
        self.spec = spec
        self.tokenizers = tokenizers
        self.texts = texts
        self.image = image
        chosen = numbers
        self.numbers = numbers
        self.noise = noise
    }

    /// Numbers that have a window are 0 in calls outside of it.
    func enter(call: Int, of calls: Int) {
        for (name, entry) in spec.numbers {
            guard let (first, last) = entry.window else { continue }
            let isInside =
                Double(call) / Double(calls) >= chosen[first]! && Double(call + 1) / Double(calls) <= chosen[last]!
            numbers[name] = isInside ? chosen[name]! : 0
        }
    }

    func keep(_ name: String, _ value: Tensor, text: String? = nil) { kept[Key(name: name, text: text)] = value }

    /// A value, if it was made; what is the same for all texts is kept for none.
    func get(_ name: String, text: String? = nil) -> Tensor? {
        kept[Key(name: name, text: spec.rates[name] == .text ? text : nil)]
    }

    func number(_ amount: Amount) -> Double {
        switch amount {
        case .constant(let value): return value
        case .number(let name): return numbers[name] ?? 0
        }
    }

    /// Whether what a role needs is there: where a picture was not given, what reads it does not run.
    func runs(_ role: Role) -> Bool {
        role.feed.allSatisfy { _, feed in
            switch feed {
            case .picture(let name, _): return name == "image" && image != nil
            case .value(let name, zerosIfAbsent: false):
                return name == "latents" || name == "timestep" || kept.keys.contains { $0.name == name }
            default: return true
            }
        }
    }

    /// Whether a text was not given, and zeros stand for what a role would make of it.
    func standsForZeros(_ role: Role, _ text: String?) -> Bool {
        guard let text, texts[text] == nil else { return false }
        return role.feed.contains {
            if case .tokens(_, zerosIfAbsent: true) = $0.feed { return true } else { return false }
        }
    }

    /// What the ports of a role outside the loop are fed with. `zeros` makes those of a port.
    func feeds(_ role: Role, text: String?, zeros: (Exact) throws -> Tensor) throws -> [Exact: Tensor] {
        var fed: [Exact: Tensor] = [:]
        for (port, feed) in role.feed { fed[port] = try one(feed, text) ?? zeros(port) }
        return fed
    }

    /// What the ports of a role in the loop are fed with: one value per pass, joined along the first dimension, except
    /// the timestep and what roles of this call made, which are there once for all.
    func feeds(_ role: Role, passes: [Pass], zeros: (Exact) throws -> Tensor) throws -> [Exact: Tensor] {
        var fed: [Exact: Tensor] = [:]
        for (port, feed) in role.feed {
            if case .value(let name, _) = feed, name != "latents", spec.rates[name] == .call, let value = get(name) {
                fed[port] = value
                continue
            }
            fed[port] = .joined(
                try passes.map { pass in
                    let value = try one(feed, pass.text) ?? zeros(port)
                    if case .value(let name, _) = feed, pass.zeros.contains(name) {
                        return .zeros(value.dtype, value.shape)
                    }
                    return value
                })
        }
        return fed
    }

    private func one(_ feed: Feed, _ text: String?) throws -> Tensor? {
        switch feed {
        case .value(let name, _): return get(name, text: text)
        case .tokens(let name, _):
            let ids = try tokenizers[name]!(text.flatMap { texts[$0] } ?? "")
            return Tensor(ids, [1, ids.count])
        case .numbers(let rows):
            let found = rows.map { row -> Float in
                switch row {
                case .same(let amount): return Float(number(amount))
                case .perText(let amounts): return Float(number(amounts[text ?? ""] ?? .constant(0)))
                }
            }
            return Tensor(found, [1, found.count])
        case .picture(_, let amount):
            guard let image else { return nil }
            guard let amount else { return image }
            let scale = Float(number(amount))
            let draw = noise.draw(image.count)
            return Tensor(zip(image.floats, draw).map { $0 + scale * $1 }, image.shape)
        }
    }

    /// Every number of a pipeline: as given, or its default.
    ///
    /// - Throws: `PlayerError` of the kind `usage`: there is no such number, or it is out of range.
    static func numbers(_ spec: PipelineSpec, _ given: [String: Double], width: Int, height: Int) throws -> [String:
        Double]
    {
        for name in given.keys where spec.number(name) == nil {
            let have = spec.numbers.isEmpty ? "none" : spec.numbers.map(\.name).joined(separator: ", ")
            throw PlayerError(.usage, "this model has no such number (it has \(have)).", at: name, fix: "leave it out")
        }
        var found = ["width": Double(width), "height": Double(height)]
        for (name, entry) in spec.numbers {
            var value = given[name]
            if value == nil, let usual = entry.usual {
                switch usual {
                case .constant(let constant): value = constant
                case .number(let other): value = found[other]
                }
            }
            guard let value, value.isFinite, entry.low <= value, value <= entry.high else {
                let what = "out of range (got \(value ?? 0), expected \(short(entry.low)) to \(short(entry.high)))."
                throw PlayerError(.usage, what, at: name, fix: "choose another")
            }
            found[name] = value
        }
        return found
    }
}
