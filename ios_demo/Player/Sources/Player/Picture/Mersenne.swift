import Foundation

/// The numbers of `torch.randn` with a CPU generator, bit for bit (docs/noise.md).
struct Mersenne {
    private var state = [UInt32](repeating: 0, count: 624)
    private var used = 624
    private var kept: Double?

    /// - Parameter seed: its low 32 bits count.
    init(seed: UInt64) {
        state[0] = UInt32(truncatingIfNeeded: seed)
        for i in 1..<624 { state[i] = 1_812_433_253 &* (state[i - 1] ^ state[i - 1] >> 30) &+ UInt32(i) }
    }

    private mutating func word() -> UInt32 {
        if used == 624 {
            for i in 0..<624 {
                let y = state[i] & 0x8000_0000 | state[(i + 1) % 624] & 0x7FFF_FFFF
                state[i] = state[(i + 397) % 624] ^ y >> 1 ^ (y & 1 == 0 ? 0 : 0x9908_B0DF)
            }
            used = 0
        }
        var y = state[used]
        used += 1
        y ^= y >> 11
        y ^= y << 7 & 0x9D2C_5680
        y ^= y << 15 & 0xEFC6_0000
        return y ^ y >> 18
    }

    /// `count` normal numbers.
    mutating func draw(_ count: Int) -> [Float] {
        if count < 16 { return (0..<count).map { _ in Float(one()) } }
        var values = (0..<count).map { _ in uniform() }
        for start in stride(from: 0, through: count - 16, by: 16) { Mersenne.transform(&values, start) }
        if count % 16 != 0 {
            let start = count - 16
            for i in start..<count { values[i] = uniform() }
            Mersenne.transform(&values, start)
        }
        return values
    }

    private mutating func uniform() -> Float { Float(word() & 0xFFFFFF) * 0x1p-24 }

    private mutating func one() -> Double {
        if let value = kept {
            kept = nil
            return value
        }
        let (a, b, c, d) = (UInt64(word()), UInt64(word()), UInt64(word()), UInt64(word()))
        let first = Double((a << 32 | b) % (1 << 53)) * 0x1p-53
        let second = Double((c << 32 | d) % (1 << 53)) * 0x1p-53
        let radius = (-2 * log1p(-second)).squareRoot()
        let angle = 2 * Double.pi * first
        kept = radius * sin(angle)
        return radius * cos(angle)
    }

    /// 16 uniform numbers become 16 normal ones: Box and Muller's transform.
    private static func transform(_ values: inout [Float], _ start: Int) {
        for i in start..<start + 8 {
            let radius = (-2 * logarithm(1 - values[i])).squareRoot()
            let angle = Float(6.2831855) * values[i + 8]
            let (sine, cosine) = sineAndCosine(angle)
            values[i] = radius * cosine
            values[i + 8] = radius * sine
        }
    }

    // The polynomials of Cephes, as torch has them. Each operation is rounded by itself, and each fma once.

    private static func fma(_ a: Float, _ b: Float, _ c: Float) -> Float { c.addingProduct(a, b) }

    private static func logarithm(_ value: Float) -> Float {
        let bits = value.bitPattern
        var e = Float(Int32(bits >> 23) - 126)
        var x = Float(bitPattern: bits & 0x007F_FFFF | 0x3F00_0000)
        if x < 0.70710677 {
            e = e - 1
            x = (x - 1) + x
        } else {
            x = x - 1
        }
        let z = x * x
        var y: Float = 0.070376836292
        let constants: [Float] = [
            -0.1151461031, 0.1167699874, -0.12420140846, 0.14249322787, -0.16668057665, 0.20000714765, -0.24999993993,
            0.33333331174,
        ]
        for constant in constants { y = fma(y, x, constant) }
        y = y * x
        y = fma(y, z, e * -0.000212194440)
        y = fma(-z, 0.5, y)
        return fma(e, 0.693359375, x + y)
    }

    /// Of an angle in 0..2 pi.
    private static func sineAndCosine(_ angle: Float) -> (Float, Float) {
        var j = Int32(angle * 1.27323954473516)
        j += j & 1
        let y = Float(j)
        var x = angle
        for part: Float in [-0.78515625, -0.00024187564849853515625, -0.0000000377489497744594108] {
            x = fma(y, part, x)
        }
        let z = x * x
        var c: Float = 0.00002443315711809948
        for constant: Float in [-0.001388731625493765, 0.04166664568298827] { c = fma(c, z, constant) }
        c = fma(c * z, z, -(z * 0.5)) + 1
        var s: Float = -0.00019515295891
        for constant: Float in [0.0083321608736, -0.16666654611] { s = fma(s, z, constant) }
        s = fma(s * z, x, x)
        if j & 2 != 0 { swap(&s, &c) }
        return (j & 4 != 0 ? -s : s, j == 2 || j == 4 ? -c : c)
    }
}
