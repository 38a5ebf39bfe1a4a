/// Weights in few bits: a matrix of whole numbers with scales, from floats and back (docs/adapters.md, "In a bundle").
struct FewBits {
    /// [rows, columns], row after row; finite.
    let values: [Float]
    let columns: Int
    private let isInt8: Bool

    private static let largest: Float = 127  // of 8 bits: a number and its negative are rounded alike

    /// - Parameter step: makes numbers or scales.
    init(_ values: [Float], _ step: Made) {
        self.values = values
        columns = step.of[0].shape[1]
        isInt8 = step.op == .int8 || step.op == .int8Scales
    }

    /// [1, columns], or [groups, columns]: not rounded to what they are stored in.
    var scales: [Float] {
        let rows = values.count / columns
        guard isInt8 else {
            let groups = (rows - 1) / Made.group + 1
            return (0..<groups * columns).map { exactScale(group: $0 / columns, column: $0 % columns, rows) }
        }
        var largest = [Float](repeating: 0, count: columns)
        for (i, value) in values.enumerated() { largest[i % columns] = max(largest[i % columns], abs(value)) }
        return largest.map { $0 / FewBits.largest }.map { $0 == 0 ? 1 : $0 }
    }

    /// In bytes: int8 in two's complement, or 0..15.
    var numbers: [UInt8] {
        let scales = self.scales
        return values.enumerated().map { i, value -> UInt8 in
            if isInt8 {
                let number = (value / scales[i % columns]).rounded(.toNearestOrEven)
                return UInt8(bitPattern: Int8(min(max(number, -FewBits.largest), FewBits.largest)))
            }
            let scale = halfToFloat(floatToHalf(scales[i / columns / Made.group * columns + i % columns]))
            let number = (scale == 0 ? 0 : (value / scale).rounded(.toNearestOrEven)) + Float(Made.zero)
            return UInt8(min(max(number, 0), 15))
        }
    }

    /// What numbers and scales stand for.
    static func floats(_ numbers: [UInt8], _ scales: [Float], _ step: Made) -> [Float] {
        let columns = step.of[0].shape[1]
        if step.op == .int8 || step.op == .int8Scales {
            return numbers.enumerated().map { Float(Int8(bitPattern: $1)) * scales[$0 % columns] }
        }
        return numbers.enumerated().map { i, number in
            Float(Int(number) - Made.zero) * scales[i / columns / Made.group * columns + i % columns]
        }
    }

    /// Of a group of one column's rows, zeros past the last.
    private func exactScale(group: Int, column: Int, _ rows: Int) -> Float {
        let first = group * Made.group
        let own = (first..<first + Made.group).map { $0 < rows ? values[$0 * columns + column] : 0 }
        var largest = own[0]  // the value of the largest size, the first of several
        var least = Float.infinity
        for value in own {
            if abs(value) > abs(largest) { largest = value }
            if value != 0 { least = min(least, abs(value)) }
        }
        let zero = Float(Made.zero)
        let usual = largest / -zero
        // Whole multiples of a scale, eight of it at most, leave a gap around zero: other groups seldom do.
        guard usual != 0, least >= abs(usual) * 0.999 else { return usual }
        for number in [-8, 1, 2, 3, 4, 5, 6, 7, -7, -6, -5, -4, -3, -2, -1] as [Float] {
            let scale = halfToFloat(floatToHalf(usual * -zero / number))
            let isExact = own.allSatisfy { value in
                let whole = (value / scale).rounded(.toNearestOrEven)
                return whole * scale == value && -zero <= whole && whole < zero
            }
            if isExact { return scale }
        }
        return usual
    }
}
