/// Stored weights with adapters in them (docs/adapters.md, "What a switch does").
final class ChangedWeights {
    private let bundle: ModelBundle
    private let adapters: [(entry: AdapterEntry, scale: Double)]
    private var keys: Set<Exact> = []
    /// Of numbers in few bits and of their scales: the keys, by what they are made of.
    private var halves: [Made: [Made.Op: Exact]] = [:]
    /// Of a weight in few bits whose other half comes next: by the op of its numbers, and what these are made of.
    private var summed: (numbers: Made.Op, of: Made, values: [Float])?

    /// - Parameter adapters: of the bundle; they add up in this order.
    init(_ bundle: ModelBundle, _ adapters: [(entry: AdapterEntry, scale: Double)]) {
        self.bundle = bundle
        self.adapters = adapters
        for (key, entry) in bundle.manifest.weights {
            guard let made = entry.made else { continue }
            var isChanged = false
            made.eachLeaf { name, _ in isChanged = isChanged || adapters.contains { $0.entry.changes[name] != nil } }
            guard isChanged else { continue }
            keys.insert(key)
            if let step = made.numberStep { halves[step.of[0], default: [:]][step.op] = key }
        }
    }

    func has(_ key: Exact) -> Bool { keys.contains(key) }

    /// Whether it is made by these.
    func isOf(_ adapters: [(entry: AdapterEntry, scale: Double)]) -> Bool {
        self.adapters.count == adapters.count
            && zip(self.adapters, adapters).allSatisfy { $0.entry.name == $1.entry.name && $0.scale == $1.scale }
    }

    /// A weight's new bytes.
    ///
    /// - Throws: `PlayerError` of the kind `numeric` where they are not finite, or too large for its dtype; `bundle`.
    func values(_ key: Exact) throws -> [UInt8] {
        let entry = bundle.manifest.weights[key]!
        let made = entry.made!
        guard let step = made.numberStep else {
            let added = try made.values(change)
            return try stored(zip(try floats(key), added).map { $0 + $1 }, key, entry.dtype)
        }
        let total = try sum(step)
        guard total.allSatisfy(\.isFinite) else { throw refusal(key, entry.dtype) }
        let bits = FewBits(total, step)
        return step.isNumbers ? made.redone(bits.numbers) : try stored(made.redone(bits.scales), key, entry.dtype)
    }

    /// Of [k, n]: what is stored in few bits, and what is added to that.
    private func sum(_ step: Made) throws -> [Float] {
        let of = step.of[0]
        let (op, other) = step.isNumbers ? (step.op, step.other.op) : (step.other.op, step.op)
        if let summed, summed.numbers == op, summed.of == of {
            self.summed = nil
            return summed.values
        }
        let (numbers, scales) = (halves[of]![op]!, halves[of]![other]!)
        let whole = bundle.manifest.weights[numbers]!.made!
        let factors = bundle.manifest.weights[scales]!.made!.undone(try floats(scales))
        let base = FewBits.floats(whole.undone(try bundle.weight(numbers)), factors, whole.numberStep!)
        let added = try of.values(change)
        let total = zip(base, added).map { $0 + $1 }
        summed = (op, of, total)
        return total
    }

    /// What is added to a weight of the checkpoint: summed in double precision, each term times both scales, and
    /// rounded once.
    private func change(_ leaf: Exact, _ shape: [Int]) throws -> [Float] {
        let count = shape.reduce(1, *)
        let rows = shape.first ?? 1
        let columns = count / rows
        var total = [Double](repeating: 0, count: count)
        for (entry, scale) in adapters {
            for term in entry.changes[leaf] ?? [] {
                let factor = scale * term.scale
                let up = try floats(term.up)
                guard let key = term.down else {
                    for i in 0..<count { total[i] += factor * Double(up[i]) }
                    continue
                }
                let down = try floats(key).map(Double.init)
                let rank = down.count / columns
                var product = [Double](repeating: 0, count: columns)
                for row in 0..<rows {
                    for column in 0..<columns { product[column] = 0 }
                    for r in 0..<rank {
                        let left = Double(up[row * rank + r])
                        for column in 0..<columns { product[column] += left * down[r * columns + column] }
                    }
                    for column in 0..<columns { total[row * columns + column] += factor * product[column] }
                }
            }
        }
        return total.map { Float($0) }
    }

    /// A weight of the file, of f32 or f16.
    private func floats(_ key: Exact) throws -> [Float] {
        let entry = bundle.manifest.weights[key]!
        return Tensor(entry.dtype, entry.shape, try bundle.weight(key)).floats
    }

    private func stored(_ values: [Float], _ key: Exact, _ dtype: Dtype) throws -> [UInt8] {
        let tensor = Tensor(values, [values.count], dtype)
        guard tensor.notFinite == 0 else { throw refusal(key, dtype) }
        return tensor.bytes
    }

    private func refusal(_ key: Exact, _ dtype: Dtype) -> PlayerError {
        PlayerError(
            .numeric, "with its adapters it holds NaN, infinity, or what is too large for \(dtype).", at: key.text,
            fix: "use another adapter, or a smaller scale")
    }
}
