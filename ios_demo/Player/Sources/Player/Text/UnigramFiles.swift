/// What T5's tokenizer is made of, read from the files of a bundle (docs/tokenizer.md, "Unigram").
struct UnigramFiles {
    struct Added {
        let content: [Unicode.Scalar]
        let id: Int32
        let stripsLeft: Bool
        let stripsRight: Bool
    }

    /// Text and score; a piece without a score is none that a text is cut into.
    private(set) var pieces: [(text: [Unicode.Scalar], score: Double?)] = []
    /// Of the same content none twice.
    private(set) var added: [Added] = []
    private(set) var unknown: Int32 = 0
    private(set) var end: Int32 = 0
    private(set) var padding: Int32 = 0
    let charsmap: Charsmap

    static let file = "unigram.json", tableFile = "charsmap.bin"
    private static let mostIDs = 1 << 20, longest = 128, largestScore = 1e9
    private let check: Checker

    /// - Throws: `PlayerError` of the kind `bundle` for files that a tokenizer cannot be made of.
    init(_ files: [String: [UInt8]], at place: String) throws {
        check = Checker(file: "\(place)/\(UnigramFiles.file)")
        charsmap = try Charsmap(files[UnigramFiles.tableFile] ?? [], at: "\(place)/\(UnigramFiles.tableFile)")
        guard let data = files[UnigramFiles.file] else { throw check.fault("is missing") }
        let whole = try check.object(try JSON(parsing: data, at: check.file), .top)
        try readPieces(try check.field(whole, "pieces", .top))
        try readAdded(try check.field(whole, "added", .top))
        unknown = try id(whole, "unknown")
        end = try id(whole, "end")
        padding = try id(whole, "padding")
    }

    private mutating func readPieces(_ value: JSON) throws {
        let at = Place.top["pieces"]
        for (i, row) in try check.list(value, 1...UnigramFiles.mostIDs, at).enumerated() {
            let pair = try check.list(row, 2...2, at[i])
            var score: Double?
            switch pair[1] {
            case .null: break
            case .integer(let whole): score = Double(whole)
            case .real(let real): score = real
            default: throw check.fault("is \(pair[1].shown) (expected a score)", at[i][1])
            }
            guard abs(score ?? 0) < UnigramFiles.largestScore else {
                throw check.fault("is \(pair[1].shown) (expected a score)", at[i][1])
            }
            pieces.append((try content(pair[0], at[i][0]), score))
        }
        let texts = pieces.filter { $0.score != nil }.map(\.text)
        guard !texts.isEmpty, Set(texts).count == texts.count else {
            throw check.fault("have one twice, or none with a score", at)
        }
    }

    private mutating func readAdded(_ value: JSON) throws {
        let at = Place.top["added"]
        for (key, row) in try check.table(value, UnigramFiles.mostIDs, at).rows {
            guard key.text.utf8.count < 8, key.text.utf8.allSatisfy({ (0x30...0x39).contains($0) }),
                let id = Int(key.text), id < UnigramFiles.mostIDs
            else { throw check.fault("is no id", at.key(key)) }
            let token = try check.object(row, at.key(key))
            let content = try content(try check.field(token, "content", at.key(key)), at.key(key)["content"])
            if id < pieces.count, pieces[id].text != content || pieces[id].score != nil {
                throw check.fault("has the id of another piece", at.key(key))
            }
            added.append(
                Added(
                    content: content, id: Int32(id), stripsLeft: try check.flag(token, "lstrip", at.key(key)),
                    stripsRight: try check.flag(token, "rstrip", at.key(key))))
        }
        guard Set(added.map(\.content)).count == added.count else { throw check.fault("have one twice", at) }
    }

    private func content(_ value: JSON, _ at: Place) throws -> [Unicode.Scalar] {
        guard case .text(let text) = value, (1...UnigramFiles.longest).contains(text.unicodeScalars.count) else {
            throw check.fault("is \(value.shown) (expected 1..\(UnigramFiles.longest) letters)", at)
        }
        return Array(text.unicodeScalars)
    }

    /// The id of an added token, or of a piece without a score.
    private func id(_ whole: JSONObject, _ name: String) throws -> Int32 {
        let at = Place.top[name]
        let id = try check.integer(try check.field(whole, name, .top), 0, UnigramFiles.mostIDs - 1, at)
        guard added.contains(where: { $0.id == Int32(id) }) || (id < pieces.count && pieces[id].score == nil) else {
            throw check.fault("is \(id), a piece that texts become, or none", at)
        }
        return Int32(id)
    }
}

/// sentencepiece's table of replacements: a trie as a double array, then the replacements, each ended by a zero byte.
struct Charsmap {
    private var units: [UInt32] = []
    private var replacements: [UInt8] = []
    private static let longest = 64  // bytes of what one replacement stands for

    /// - Parameter data: none: every letter stays.
    init(_ data: [UInt8], at place: String) throws {
        if data.isEmpty { return }
        func word(_ at: Int) -> UInt32 { (0..<4).reduce(0) { $0 | UInt32(data[at + $1]) << (8 * UInt32($1)) } }
        let size = data.count < 4 ? 0 : Int(word(0))
        guard size > 0, size % 4 == 0, 4 + size <= data.count else {
            let what = "its trie does not fit (got \(size) bytes of \(data.count), expected a multiple of 4, and less)."
            throw PlayerError(.bundle, what, at: place, fix: damaged)
        }
        units = (0..<size / 4).map { word(4 + 4 * $0) }
        replacements = Array(data[(4 + size)...])
        guard String(validUTF8: replacements) != nil, (replacements.last ?? 0) == 0 else {
            throw PlayerError(.bundle, "its replacements are no text with an end.", at: place, fix: damaged)
        }
    }

    /// The text with its replacements; nil where it would have more than `most` letters.
    func replaced(_ text: ArraySlice<Unicode.Scalar>, most: Int) -> [Unicode.Scalar]? {
        var bytes: [UInt8] = []
        for letter in text { bytes += UTF8.encode(letter)! }
        var letters: [Unicode.Scalar] = []
        var at = 0
        while at < bytes.count {
            if let (count, new) = longestEntry(bytes, at) {
                letters += String(decoding: new, as: UTF8.self).unicodeScalars
                at += count
            } else {
                let count = bytes[at] < 0x80 ? 1 : bytes[at] < 0xE0 ? 2 : bytes[at] < 0xF0 ? 3 : 4
                letters += String(decoding: bytes[at..<at + count], as: UTF8.self).unicodeScalars
                at += count
            }
            if letters.count > most { return nil }
        }
        return letters
    }

    /// How many bytes the longest entry has that stands there and ends with a letter, and what takes its place.
    private func longestEntry(_ bytes: [UInt8], _ start: Int) -> (Int, ArraySlice<UInt8>)? {
        func offset(_ unit: UInt32) -> Int { Int(unit >> 10) << (unit & 0x200 == 0 ? 0 : 8) }
        guard let first = units.first else { return nil }
        var found: (Int, ArraySlice<UInt8>)?
        var node = offset(first)
        for end in start..<min(start + Charsmap.longest, bytes.count) {
            node ^= Int(bytes[end])
            guard node < units.count, units[node] & 0x8000_00FF == UInt32(bytes[end]) else { break }
            let unit = units[node]
            node ^= offset(unit)
            let isWhole = end + 1 == bytes.count || bytes[end + 1] & 0xC0 != 0x80
            if unit & 0x100 != 0, isWhole, node < units.count {
                let begin = Int(units[node] & 0x7FFF_FFFF)
                if begin < replacements.count, replacements[begin] & 0xC0 != 0x80 {
                    found = (end + 1 - start, replacements[begin...].prefix { $0 != 0 })
                }
            }
        }
        return found
    }
}
