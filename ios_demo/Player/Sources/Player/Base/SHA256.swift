/// SHA-256 (FIPS 180-4) of a file's bytes: the same on every system, without another library.
struct SHA256 {
    private var state: [UInt32] = [
        0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19,
    ]
    private var words = [UInt32](repeating: 0, count: 64)

    /// 64 lower-case hexadecimal digits.
    static func hex(of data: UnsafeRawBufferPointer) -> String {
        var hash = SHA256()
        let whole = data.count / 64 * 64
        hash.add(UnsafeRawBufferPointer(rebasing: data[0..<whole]))
        var last = [UInt8](data[whole...]) + [0x80]
        while last.count % 64 != 56 { last.append(0) }
        withUnsafeBytes(of: (UInt64(data.count) * 8).bigEndian) { last.append(contentsOf: $0) }
        last.withUnsafeBytes { hash.add($0) }
        let digits = Array("0123456789abcdef")
        return String(hash.state.flatMap { word in (0..<8).map { digits[Int(word >> (28 - 4 * $0) & 15)] } })
    }

    /// Whole blocks of 64 bytes.
    private mutating func add(_ data: UnsafeRawBufferPointer) {
        words.withUnsafeMutableBufferPointer { w in
            SHA256.constants.withUnsafeBufferPointer { k in
                for block in stride(from: 0, to: data.count, by: 64) {
                    for i in 0..<16 {
                        w[i] = UInt32(bigEndian: data.loadUnaligned(fromByteOffset: block + 4 * i, as: UInt32.self))
                    }
                    for i in 16..<64 {
                        let small = w[i - 15].rotated(7) ^ w[i - 15].rotated(18) ^ (w[i - 15] >> 3)
                        let large = w[i - 2].rotated(17) ^ w[i - 2].rotated(19) ^ (w[i - 2] >> 10)
                        w[i] = w[i - 16] &+ small &+ w[i - 7] &+ large
                    }
                    var (a, b, c, d) = (state[0], state[1], state[2], state[3])
                    var (e, f, g, h) = (state[4], state[5], state[6], state[7])
                    for i in 0..<64 {
                        let choice = (e & f) ^ (~e & g)
                        let first = h &+ (e.rotated(6) ^ e.rotated(11) ^ e.rotated(25)) &+ choice &+ k[i] &+ w[i]
                        let most = (a & b) ^ (a & c) ^ (b & c)
                        let second = (a.rotated(2) ^ a.rotated(13) ^ a.rotated(22)) &+ most
                        (h, g, f, e, d, c, b, a) = (g, f, e, d &+ first, c, b, a, first &+ second)
                    }
                    for (i, word) in [a, b, c, d, e, f, g, h].enumerated() { state[i] &+= word }
                }
            }
        }
    }

    private static let constants: [UInt32] = [
        0x428A2F98, 0x71374491, 0xB5C0FBCF, 0xE9B5DBA5, 0x3956C25B, 0x59F111F1, 0x923F82A4, 0xAB1C5ED5,
        0xD807AA98, 0x12835B01, 0x243185BE, 0x550C7DC3, 0x72BE5D74, 0x80DEB1FE, 0x9BDC06A7, 0xC19BF174,
        0xE49B69C1, 0xEFBE4786, 0x0FC19DC6, 0x240CA1CC, 0x2DE92C6F, 0x4A7484AA, 0x5CB0A9DC, 0x76F988DA,
        0x983E5152, 0xA831C66D, 0xB00327C8, 0xBF597FC7, 0xC6E00BF3, 0xD5A79147, 0x06CA6351, 0x14292967,
        0x27B70A85, 0x2E1B2138, 0x4D2C6DFC, 0x53380D13, 0x650A7354, 0x766A0ABB, 0x81C2C92E, 0x92722C85,
        0xA2BFE8A1, 0xA81A664B, 0xC24B8B70, 0xC76C51A3, 0xD192E819, 0xD6990624, 0xF40E3585, 0x106AA070,
        0x19A4C116, 0x1E376C08, 0x2748774C, 0x34B0BCB5, 0x391C0CB3, 0x4ED8AA4A, 0x5B9CCA4F, 0x682E6FF3,
        0x748F82EE, 0x78A5636F, 0x84C87814, 0x8CC70208, 0x90BEFFFA, 0xA4506CEB, 0xBEF9A3F7, 0xC67178F2,
    ]
}

extension UInt32 {
    fileprivate func rotated(_ count: UInt32) -> UInt32 { self >> count | self << (32 - count) }
}
