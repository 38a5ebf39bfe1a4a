extension Pixels {
    /// The picture's file, byte for byte as every player writes it (docs/png.md).
    ///
    /// - Parameter texts: keyword and text, in order; letters of value 0 are left out of a text.
    public func png(texts: [(keyword: String, text: String)] = []) -> [UInt8] {
        var file: [UInt8] = [0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A]
        PNG.chunk("IHDR", PNG.big(UInt32(width)) + PNG.big(UInt32(height)) + [8, 2, 0, 0, 0], &file)
        for (keyword, text) in texts {
            let letters = text.unicodeScalars.filter { $0.value != 0 }
            if letters.allSatisfy({ $0.value < 256 }) {
                PNG.chunk("tEXt", Array(keyword.utf8) + [0] + letters.map { UInt8($0.value) }, &file)
            } else {
                let utf8 = Array(String(String.UnicodeScalarView(letters)).utf8)
                PNG.chunk("iTXt", Array(keyword.utf8) + [0, 0, 0, 0, 0] + utf8, &file)
            }
        }
        let stream = Deflate.stream(of: filtered())
        for start in stride(from: 0, to: stream.count, by: 1 << 20) {
            PNG.chunk("IDAT", Array(stream[start..<min(start + 1 << 20, stream.count)]), &file)
        }
        PNG.chunk("IEND", [], &file)
        return file
    }

    /// Each row with the number of its filter before it, the cheapest of the five.
    private func filtered() -> [UInt8] {
        let row = width * 3
        var result: [UInt8] = []
        result.reserveCapacity((row + 1) * height)
        var above = [UInt8](repeating: 0, count: row)
        var tries = [[UInt8]](repeating: above, count: 5)
        for y in 0..<height {
            let line = Array(bytes[y * row..<(y + 1) * row])
            var costs = [0, 0, 0, 0, 0]
            for i in 0..<row {
                let byte = line[i]
                let up = above[i]
                let left = i >= 3 ? line[i - 3] : 0
                let corner = i >= 3 ? above[i - 3] : 0
                let guesses = (UInt8(0), left, up, UInt8((Int(left) + Int(up)) / 2), PNG.nearest(left, up, corner))
                let differences = (
                    byte &- guesses.0, byte &- guesses.1, byte &- guesses.2, byte &- guesses.3, byte &- guesses.4
                )
                (tries[0][i], tries[1][i], tries[2][i], tries[3][i], tries[4][i]) = differences
                costs[0] += PNG.cost(differences.0)
                costs[1] += PNG.cost(differences.1)
                costs[2] += PNG.cost(differences.2)
                costs[3] += PNG.cost(differences.3)
                costs[4] += PNG.cost(differences.4)
            }
            let cheapest = costs.firstIndex(of: costs.min()!)!
            result.append(UInt8(cheapest))
            result += tries[cheapest]
            above = line
        }
        return result
    }
}

private enum PNG {
    static func big(_ value: UInt32) -> [UInt8] { (0..<4).map { UInt8(truncatingIfNeeded: value >> (24 - 8 * $0)) } }

    static func chunk(_ kind: String, _ data: [UInt8], _ file: inout [UInt8]) {
        let body = Array(kind.utf8) + data
        file += big(UInt32(data.count)) + body + big(crc(body))
    }

    static func cost(_ difference: UInt8) -> Int { min(Int(difference), 256 - Int(difference)) }

    /// Of left, up and corner the nearest to left + up - corner; of equally near ones the first.
    static func nearest(_ left: UInt8, _ up: UInt8, _ corner: UInt8) -> UInt8 {
        let middle = Int(left) + Int(up) - Int(corner)
        let far = (abs(middle - Int(left)), abs(middle - Int(up)), abs(middle - Int(corner)))
        if far.0 <= far.1, far.0 <= far.2 { return left }
        return far.1 <= far.2 ? up : corner
    }

    private static let table: [UInt32] = (0..<256).map { number in
        (0..<8).reduce(UInt32(number)) { value, _ in value & 1 == 0 ? value >> 1 : value >> 1 ^ 0xEDB8_8320 }
    }

    private static func crc(_ data: [UInt8]) -> UInt32 {
        ~data.reduce(~UInt32(0)) { table[Int(UInt8(truncatingIfNeeded: $0) ^ $1)] ^ $0 >> 8 }
    }
}
