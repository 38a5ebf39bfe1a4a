/// Low-rank factors of a change of a weight, or the whole of it: keys of `weights`. `scale` times their product.
struct AdapterTerm: Sendable {
    let up: Exact
    let down: Exact?  // nil: up is the whole
    let scale: Double
}

/// An adapter that the bundle carries (docs/adapters.md): what it adds to weights of the checkpoint.
public struct AdapterEntry: Sendable {
    public let name: String
    /// How much of it where nobody says.
    public let scale: Double
    let changes: [Exact: [AdapterTerm]]
}

/// Whether what is said of how stored weights are made fits together; and the adapters.
struct AdapterReader {
    private let check: Checker
    private let weights: [(key: Exact, entry: WeightEntry)]  // in the order of the text
    private let byKey: [Exact: WeightEntry]
    private var shapes: [Exact: [Int]] = [:]  // of weights of the checkpoint that some stored one is made of

    private static let mostAdapters = 256, mostName = 64, mostTerms = 16, mostParts = 16

    init(check: Checker, weights: [(key: Exact, entry: WeightEntry)]) {
        self.check = check
        self.weights = weights
        byKey = Dictionary(uniqueKeysWithValues: weights.map { ($0.key, $0.entry) })
    }

    /// Refuse weights of the checkpoint that have two shapes, and numbers in few bits without scales, or the other way
    /// around: of each, there is the other one of the same.
    ///
    /// - Parameter modules: nil where the bundle does not say them.
    mutating func checkMade(modules: JSON?) throws {
        var known = try modules.map(layers) ?? [:]
        for (key, entry) in weights {
            try entry.made?.eachLeaf { name, shape in
                guard known[name, default: shape] == shape else {
                    let what = "has \(JSON.quoted(name.text)) of \(shape) (expected \(known[name]!))"
                    throw check.fault(what, Place.top["weights"].key(key)["made"])
                }
                known[name] = shape
                shapes[name] = shape
            }
        }
        var steps: [Made: Set<Made.Op>] = [:]  // by what the numbers or scales are made of
        for step in weights.compactMap({ $0.entry.made?.numberStep }) { steps[step.of[0], default: []].insert(step.op) }
        for (key, entry) in weights {
            guard let step = entry.made?.numberStep else { continue }
            let (other, name) = step.other
            guard steps[step.of[0]]!.contains(other) else {
                let what = "has no weight beside it that is made by \(name) of the same"
                throw check.fault(what, Place.top["weights"].key(key)["made"])
            }
        }
    }

    /// The shapes of the weights that adapters may change.
    private func layers(_ value: JSON) throws -> [Exact: [Int]] {
        let place = Place.top["modules"]
        var found: [Exact: [Int]] = [:]
        for (key, rows) in try check.table(value, AdapterReader.mostParts, place).rows {
            let at = place.key(key)
            let part = try check.identifier(.text(key.text), place)
            for (layer, row) in try check.table(rows, Limit.weights, at).rows {
                let name = try check.text(.text(layer.text), at)
                let object = try check.object(row, at.key(layer))
                let shape = try check.field(object, "shape", at.key(layer))
                found[Exact("\(part)/\(name).weight")] = try check.shape(shape, .f32, at.key(layer)["shape"])
                if let original = object["original"] { _ = try check.text(original, at.key(layer)["original"]) }
            }
        }
        return found
    }

    /// After `checkMade`.
    func read(_ value: JSON) throws -> [AdapterEntry] {
        let place = Place.top["adapters"]
        let found = try check.table(value, AdapterReader.mostAdapters, place).rows.map { key, row -> AdapterEntry in
            let name = try check.name(.text(key.text), place)
            guard name.utf8.count <= AdapterReader.mostName else {
                let expected = "expected at most \(AdapterReader.mostName) letters"
                throw check.fault("is \(JSON.quoted(name)) (\(expected))", place)
            }
            let at = place.key(key)
            let object = try check.object(row, at)
            for field in ["scale", "changes"] { _ = try check.field(object, field, at) }
            let scale = try check.number(object["scale"]!, at["scale"])
            var changes: [Exact: [AdapterTerm]] = [:]
            for (leaf, terms) in try check.table(object["changes"]!, Limit.weights, at["changes"]).rows {
                let place = at["changes"].key(leaf)
                guard let shape = shapes[leaf] else {
                    throw check.fault("is of no weight that the plans read", place)
                }
                changes[leaf] = try check.list(terms, 1...AdapterReader.mostTerms, place).enumerated().map {
                    try term($1, shape, place[$0])
                }
            }
            return AdapterEntry(name: name, scale: scale, changes: changes)
        }
        try check.distinct(found.map(\.name), place)
        return found
    }

    private func term(_ value: JSON, _ shape: [Int], _ at: Place) throws -> AdapterTerm {
        let object = try check.object(value, at)
        let words = object["full"] != nil ? ["full"] : ["up", "down"]
        for field in words + ["scale"] { _ = try check.field(object, field, at) }
        var keys: [Exact] = []
        var factors: [[Int]] = []
        for word in words {
            let given = object[Exact(word)]!
            guard case .text(let text) = given, let entry = byKey[Exact(text)] else {
                _ = try check.oneOf(given, weights.map(\.key.text), at[word])
                throw check.fault("is \(given.shown) (expected a key of weights)", at[word])
            }
            guard entry.dtype == .f16 || entry.dtype == .f32, entry.made == nil else {
                throw check.fault("is \(given.shown) (expected a weight of f16 or f32 that no plan needs)", at[word])
            }
            keys.append(Exact(text))
            factors.append(entry.shape)
        }
        var fits = factors[0] == shape
        if factors.count == 2 {
            let (up, down) = (factors[0], factors[1])
            let matrix = [shape.first ?? 1, shape.dropFirst().reduce(1, *)]
            fits = up.count == 2 && down.count == 2 && up[1] == down[0] && [up[0], down[1]] == matrix
        }
        guard fits else {
            let got = factors.map { "\($0)" }.joined(separator: " and ")
            throw check.fault("does not fit the weight (got \(got), expected a change of \(shape))", at)
        }
        let scale = try check.number(object["scale"]!, at["scale"])
        return AdapterTerm(up: keys[0], down: keys.count > 1 ? keys[1] : nil, scale: scale)
    }
}

extension Made {
    /// Of numbers in few bits the op that makes their scales, and the other way around; and its name.
    var other: (op: Op, name: String) {
        switch op {
        case .int8: return (.int8Scales, "int8_scales")
        case .int4: return (.int4Scales, "int4_scales")
        case .int8Scales: return (.int8, "int8")
        default: return (.int4, "int4")
        }
    }
}
