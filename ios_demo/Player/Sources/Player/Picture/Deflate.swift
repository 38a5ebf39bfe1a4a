/// The stream of docs/png.md: runs and Huffman codes of blocks, without a search for repeats, so that every player
/// writes the same bytes.
struct Deflate {
    private static let block = 65_536
    private var bits = BitWriter()

    /// A zlib stream of the bytes.
    static func stream(of data: [UInt8]) -> [UInt8] {
        var deflate = Deflate()
        var start = 0
        repeat {
            let end = min(start + block, data.count)
            deflate.add(data[start..<end], isLast: end == data.count)
            start = end
        } while start < data.count
        var adler: (UInt32, UInt32) = (1, 0)
        for byte in data {
            adler.0 = (adler.0 + UInt32(byte)) % 65_521
            adler.1 = (adler.1 + adler.0) % 65_521
        }
        let sum = adler.1 << 16 | adler.0
        return [0x78, 0x9C] + deflate.bits.finished() + (0..<4).map { UInt8(truncatingIfNeeded: sum >> (24 - 8 * $0)) }
    }

    /// A symbol of literals and lengths, with its extra bits.
    private struct Symbol {
        let number: Int
        var extra = 0
        var extraBits = 0
    }

    private mutating func add(_ bytes: ArraySlice<UInt8>, isLast: Bool) {
        let symbols = Deflate.symbols(of: bytes)
        var counts = [Int](repeating: 0, count: 286)
        for symbol in symbols { counts[symbol.number] += 1 }
        let lengths = Deflate.lengths(counts, most: 15)
        let said = max(257, (lengths.lastIndex { $0 > 0 } ?? 0) + 1)

        bits.add(isLast ? 1 : 0, 1)
        bits.add(2, 2)
        let list = Array(lengths[..<said]) + [1]  // one distance code, of length 1
        let head = Deflate.head(of: list)
        var headCounts = [Int](repeating: 0, count: 19)
        for symbol in head { headCounts[symbol.number] += 1 }
        let headLengths = Deflate.lengths(headCounts, most: 7)
        let order = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15]
        let listed = max(4, (order.lastIndex { headLengths[$0] > 0 } ?? 0) + 1)
        bits.add(said - 257, 5)
        bits.add(0, 5)
        bits.add(listed - 4, 4)
        for number in order[..<listed] { bits.add(headLengths[number], 3) }
        let headCodes = Deflate.codes(headLengths)
        for symbol in head {
            bits.add(headCodes[symbol.number], headLengths[symbol.number])
            bits.add(symbol.extra, symbol.extraBits)
        }
        let codes = Deflate.codes(lengths)
        for symbol in symbols {
            bits.add(codes[symbol.number], lengths[symbol.number])
            if symbol.number > 256 {
                bits.add(symbol.extra, symbol.extraBits)
                bits.add(0, 1)  // the distance
            }
        }
    }

    /// What a block says: runs of equal bytes, each as long as it can be; the end is last.
    private static func symbols(of bytes: ArraySlice<UInt8>) -> [Symbol] {
        var symbols: [Symbol] = []
        symbols.reserveCapacity(bytes.count + 1)
        var at = bytes.startIndex
        while at < bytes.endIndex {
            let byte = bytes[at]
            var end = at + 1
            while end < bytes.endIndex, bytes[end] == byte { end += 1 }
            symbols.append(Symbol(number: Int(byte)))
            let left = end - at - 1
            for _ in 0..<left / 258 { symbols.append(Symbol(number: 285)) }
            let rest = left % 258
            if rest >= 10 {
                symbols.append(length(rest))
            } else {
                for _ in 0..<rest { symbols.append(Symbol(number: Int(byte))) }
            }
            at = end
        }
        symbols.append(Symbol(number: 256))
        return symbols
    }

    /// RFC 1951's symbol of a length of 3 to 257: four to each number of extra bits from 11 on.
    private static func length(_ length: Int) -> Symbol {
        if length < 11 { return Symbol(number: 254 + length) }
        var extraBits = 1
        while length - 3 >= 8 << extraBits { extraBits += 1 }
        let over = length - 3 - (4 << extraBits)
        return Symbol(
            number: 261 + 4 * extraBits + over >> extraBits, extra: over & ((1 << extraBits) - 1),
            extraBits: extraBits)
    }

    /// Lengths of the codes of a Huffman tree over the counts.
    private static func lengths(_ counts: [Int], most: Int) -> [Int] {
        var counts = counts
        while true {
            let lengths = tree(counts)
            if lengths.allSatisfy({ $0 <= most }) { return lengths }
            counts = counts.map { ($0 + 1) / 2 }
        }
    }

    private static func tree(_ counts: [Int]) -> [Int] {
        let leaves = counts.indices.filter { counts[$0] > 0 }.sorted { (counts[$0], $0) < (counts[$1], $1) }
        var lengths = [Int](repeating: 0, count: counts.count)
        guard leaves.count > 1 else {
            for leaf in leaves { lengths[leaf] = 1 }
            return lengths
        }
        // Leaves first, then nodes in the order in which they are made: each of these is lighter than those after it.
        var weights = leaves.map { counts[$0] }
        var parents = [Int](repeating: 0, count: 2 * leaves.count - 1)
        var leaf = 0
        var node = leaves.count
        while weights.count < parents.count {
            var weight = 0
            for _ in 0..<2 {
                let isLeaf = leaf < leaves.count && (node >= weights.count || weights[leaf] <= weights[node])
                let taken = isLeaf ? leaf : node
                if isLeaf { leaf += 1 } else { node += 1 }
                parents[taken] = weights.count
                weight += weights[taken]
            }
            weights.append(weight)
        }
        var depths = [Int](repeating: 0, count: parents.count)
        for one in (0..<parents.count - 1).reversed() { depths[one] = depths[parents[one]] + 1 }
        for (place, leaf) in leaves.enumerated() { lengths[leaf] = depths[place] }
        return lengths
    }

    /// RFC 1951's codes of lengths, their bits in the order in which they are written.
    private static func codes(_ lengths: [Int]) -> [Int] {
        var counts = [Int](repeating: 0, count: 16)
        for length in lengths where length > 0 { counts[length] += 1 }
        var next = counts
        var code = 0
        for length in 1...15 {
            code = (code + counts[length - 1]) << 1
            next[length] = code
        }
        return lengths.map { length in
            guard length > 0 else { return 0 }
            defer { next[length] += 1 }
            return (0..<length).reduce(0) { $0 | (next[length] >> $1 & 1) << (length - 1 - $1) }
        }
    }

    /// Lengths of codes, said in symbols of 0 to 18.
    private static func head(of list: [Int]) -> [Symbol] {
        var symbols: [Symbol] = []
        var at = 0
        while at < list.count {
            let value = list[at]
            var left = 1
            while at + left < list.count, list[at + left] == value { left += 1 }
            at += left
            if value != 0 {
                symbols.append(Symbol(number: value))
                left -= 1
            }
            while left >= 3 {
                let most = min(left, value != 0 ? 6 : 138)
                if value != 0 {
                    symbols.append(Symbol(number: 16, extra: most - 3, extraBits: 2))
                } else if most <= 10 {
                    symbols.append(Symbol(number: 17, extra: most - 3, extraBits: 3))
                } else {
                    symbols.append(Symbol(number: 18, extra: most - 11, extraBits: 7))
                }
                left -= most
            }
            for _ in 0..<left { symbols.append(Symbol(number: value)) }
        }
        return symbols
    }
}

/// Bits fill bytes from the lowest.
private struct BitWriter {
    private var bytes: [UInt8] = []
    private var held: UInt64 = 0
    private var count = 0

    mutating func add(_ value: Int, _ bits: Int) {
        held |= UInt64(value) << UInt64(count)
        count += bits
        while count >= 8 {
            bytes.append(UInt8(truncatingIfNeeded: held))
            held >>= 8
            count -= 8
        }
    }

    func finished() -> [UInt8] { count > 0 ? bytes + [UInt8(truncatingIfNeeded: held)] : bytes }
}
