/// The values of what weights are made by (docs/adapters.md, "In a bundle").
extension Made {
    /// Of the points 0, +-1/sqrt 2, +-sqrt 2, infinity: the rows of G in G w G^T.
    private static let taps: [[Double]] = {
        let (p, q) = (0.5.squareRoot(), 2.0.squareRoot())
        return [
            [1, 0, 0], [-2.0 / 3, -2.0 / 3 * p, -1.0 / 3], [-2.0 / 3, 2.0 / 3 * p, -1.0 / 3],
            [1.0 / 6, q / 6, 1.0 / 3], [1.0 / 6, -q / 6, 1.0 / 3], [0, 0, 1],
        ]
    }()

    /// The values of an expression of floats alone.
    ///
    /// - Parameter leaf: gives those of a weight of the checkpoint, by its name and shape.
    func values(_ leaf: (Exact, [Int]) throws -> [Float]) rethrows -> [Float] {
        if case .weight(let name) = op { return try leaf(name, shape) }
        if case .concat(let axis) = op { return try side(axis, leaf) }
        let of = try self.of[0].values(leaf)
        switch op {
        case .scale(let by): return of.map { $0 * Float(by) }
        case .transpose(let perm): return transposed(of, perm)
        case .winograd: return winograd(of)
        case .pad: return padded(of)
        case .panels: return panelled(of)
        default: return of
        }
    }

    /// All of its parts along an axis.
    private func side(_ axis: Int, _ leaf: (Exact, [Int]) throws -> [Float]) rethrows -> [Float] {
        let row = shape[axis...].reduce(1, *)
        var result = [Float](repeating: 0, count: shape.reduce(1, *))
        var begin = 0
        for part in of {
            let values = try part.values(leaf)
            let own = part.shape[axis...].reduce(1, *)
            for i in values.indices { result[i / own * row + begin + i % own] = values[i] }
            begin += own
        }
        return result
    }

    /// Axis i is axis `perm[i]` of the values.
    private func transposed(_ values: [Float], _ perm: [Int]) -> [Float] {
        let from = of[0].shape
        let strides = perm.map { from[($0 + 1)...].reduce(1, *) }
        var at = [Int](repeating: 0, count: shape.count)
        var place = 0
        return [Float](unsafeUninitializedCapacity: values.count) { result, count in
            for i in values.indices {
                result[i] = values[place]
                for axis in shape.indices.reversed() {
                    place += strides[axis]
                    at[axis] += 1
                    if at[axis] < shape[axis] { break }
                    place -= strides[axis] * at[axis]
                    at[axis] = 0
                }
            }
            count = values.count
        }
    }

    private func winograd(_ values: [Float]) -> [Float] {
        let pairs = values.count / 9
        var result = [Float](repeating: 0, count: 36 * pairs)
        for i in 0..<36 {
            let both = (0..<9).map { Made.taps[i / 6][$0 / 3] * Made.taps[i % 6][$0 % 3] }
            for pair in 0..<pairs {
                var sum = 0.0
                for tap in 0..<9 { sum += both[tap] * Double(values[tap * pairs + pair]) }
                result[i * pairs + pair] = Float(sum)
            }
        }
        return result
    }

    private func padded<Value: Numeric>(_ values: [Value]) -> [Value] {
        let (own, columns) = (of[0].shape[shape.count - 1], shape[shape.count - 1])
        var result = [Value](repeating: 0, count: shape.reduce(1, *))
        for i in values.indices { result[i / own * columns + i % own] = values[i] }
        return result
    }

    /// Calls `visit` with each place in the panels, and the place in the rows that it is of; nil where there is none.
    private func eachOfPanels(_ visit: (Int, Int?) -> Void) {
        guard case .panels(let width, let halves, _) = op else { return }
        let from = of[0].shape
        let (k, n, own) = (from[from.count - 2], from[from.count - 1] / halves, width / halves)
        var to = 0
        for batch in 0..<from.dropLast(2).reduce(1, *) {
            for panel in 0..<shape[shape.count - 3] {
                for row in 0..<k {
                    for half in 0..<halves {
                        for column in panel * own..<(panel + 1) * own {
                            visit(to, column < n ? ((batch * k + row) * halves + half) * n + column : nil)
                            to += 1
                        }
                    }
                }
            }
        }
    }

    private func panelled<Value: Numeric>(_ values: [Value]) -> [Value] {
        guard case .panels(_, _, let fill) = op else { return values }
        var result = [Value](repeating: Value(exactly: fill)!, count: shape.reduce(1, *))
        eachOfPanels { to, from in
            if let from { result[to] = values[from] }
        }
        return result
    }

    // Numbers in few bits and their scales ----------------------------------------------------------------------------

    /// What is stored, of the numbers or scales that its number step makes.
    func redone<Value: Numeric>(_ numbers: [Value]) -> [Value] {
        if isNumbers || isScales { return numbers }
        let inner = of[0].redone(numbers)
        switch op {
        case .pad: return padded(inner)
        case .panels: return panelled(inner)
        default: return Made.pairs(inner)
        }
    }

    /// The numbers or scales that its number step makes, of what is stored.
    func undone<Value: Numeric>(_ stored: [Value]) -> [Value] {
        if isNumbers || isScales { return stored }
        let inner = of[0]
        var result = [Value](repeating: 0, count: inner.shape.reduce(1, *))
        switch op {
        case .pad:
            let (own, columns) = (inner.shape[shape.count - 1], shape[shape.count - 1])
            for i in result.indices { result[i] = stored[i / own * columns + i % own] }
        case .panels:
            eachOfPanels { from, to in
                if let to { result[to] = stored[from] }
            }
        default: result = Made.outOfPairs(stored)
        }
        return inner.undone(result)
    }

    /// Of two neighbours the first in the low bits; scales have none.
    private static func pairs<Value: Numeric>(_ numbers: [Value]) -> [Value] {
        guard let bytes = numbers as? [UInt8] else { return numbers }
        return stride(from: 0, to: bytes.count, by: 2).map { bytes[$0] | bytes[$0 + 1] << 4 } as! [Value]
    }

    private static func outOfPairs<Value: Numeric>(_ stored: [Value]) -> [Value] {
        guard let bytes = stored as? [UInt8] else { return stored }
        return bytes.flatMap { [$0 & 15, $0 >> 4] } as! [Value]
    }
}
