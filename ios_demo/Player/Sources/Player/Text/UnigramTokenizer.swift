/// T5's tokenizer: of all ways to cut a text into pieces it takes the likeliest (docs/tokenizer.md, "Unigram").
final class UnigramTokenizer: Vocabulary {
    let length: Int
    var start: Int32? { nil }
    var end: Int32 { files.end }
    var pad: Int32 { files.padding }
    let comma: Int32?

    private let files: UnigramFiles
    private let added: [UnigramFiles.Added]  // the longest first
    private let least: Double  // of a letter that no piece has
    // A trie of the pieces that have a score: the node after a node and a letter; and by node, the piece that ends
    // there.
    private var nodes: [UInt64: Int32] = [:]
    private var ends: [(id: Int32, score: Double)?] = [nil]

    private static let mostText = 1 << 20  // letters, once they are replaced
    private static let unknownPenalty = 10.0
    private static let space = Unicode.Scalar(0x2581 as UInt16)!

    /// - Parameters:
    ///   - files: bytes by name.
    ///   - length: ids that a text becomes.
    /// - Throws: `PlayerError` of the kind `bundle` for files that a tokenizer cannot be made of.
    init(_ files: [String: [UInt8]], length: Int, at place: String = "tokenizer") throws {
        self.length = length
        let files = try UnigramFiles(files, at: place)
        self.files = files
        added = files.added.sorted { $0.content.count > $1.content.count }
        least = files.pieces.compactMap(\.score).min()! - UnigramTokenizer.unknownPenalty
        comma = files.pieces.firstIndex { $0.score != nil && $0.text == [","] }.map { Int32($0) }
        for (id, piece) in files.pieces.enumerated() {
            guard let score = piece.score else { continue }
            var node: Int32 = 0
            for letter in piece.text {
                let key = UnigramTokenizer.key(node, letter)
                if nodes[key] == nil {
                    nodes[key] = Int32(ends.count)
                    ends.append(nil)
                }
                node = nodes[key]!
            }
            ends[Int(node)] = (Int32(id), score)
        }
    }

    private static func key(_ node: Int32, _ letter: Unicode.Scalar) -> UInt64 {
        UInt64(node) << 21 | UInt64(letter.value)
    }

    func ids(_ text: [Unicode.Scalar]) throws -> [Int32] {
        var ids: [Int32] = []
        var done = 0
        var at = 0
        while at < text.count {
            guard let token = added.first(where: { text[at...].starts(with: $0.content) }) else {
                at += 1
                continue
            }
            var before = at
            if token.stripsLeft {
                while before > done, Tokenizer.isSpace(text[before - 1]) { before -= 1 }
            }
            ids += likeliest(try normal(text[done..<max(before, done)])) + [token.id]
            at += token.content.count
            done = at
            if token.stripsRight {
                while done < text.count, Tokenizer.isSpace(text[done]) { done += 1 }
            }
        }
        if done < text.count { ids += likeliest(try normal(text[done...])) }
        return ids
    }

    /// The letters to cut: replaced, with a sign before each word.
    private func normal(_ text: ArraySlice<Unicode.Scalar>) throws -> [Unicode.Scalar] {
        guard let replaced = files.charsmap.replaced(text, most: UnigramTokenizer.mostText) else {
            throw PlayerError(
                .usage, "it is too long (more than \(UnigramTokenizer.mostText) letters).", at: "prompt",
                fix: "use a shorter text")
        }
        var letters: [Unicode.Scalar] = []
        var begins = true
        for letter in replaced {
            if letter == " " {
                begins = true
                continue
            }
            if begins { letters.append(UnigramTokenizer.space) }
            letters.append(letter)
            begins = false
        }
        return letters
    }

    /// The pieces whose scores have the largest sum; of a run of unknown letters the first is kept.
    private func likeliest(_ letters: [Unicode.Scalar]) -> [Int32] {
        var best = [(sum: Double, start: Int, id: Int32)](
            repeating: (-Double.infinity, 0, files.unknown), count: letters.count + 1)
        best[0].sum = 0
        for start in letters.indices {
            let before = best[start].sum
            var node: Int32 = 0
            var isAlone = false  // whether the letter is a piece by itself
            for end in start..<letters.count {
                guard let next = nodes[UnigramTokenizer.key(node, letters[end])] else { break }
                node = next
                guard let (id, score) = ends[Int(node)] else { continue }
                if end == start { isAlone = true }
                if before + score > best[end + 1].sum { best[end + 1] = (before + score, start, id) }
            }
            if !isAlone, before + least > best[start + 1].sum {
                best[start + 1] = (before + least, start, files.unknown)
            }
        }
        var found: [Int32] = []
        var end = letters.count
        while end > 0 {
            // From the end: of unknown pieces that follow each other one stays.
            let id = best[end].id
            if id != files.unknown || found.last != id { found.append(id) }
            end = best[end].start
        }
        return found.reversed()
    }
}
