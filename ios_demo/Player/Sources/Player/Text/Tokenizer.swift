import Foundation

/// CLIP's tokenizer: a text becomes the ids that a text encoder reads (docs/tokenizer.md, "The algorithm").
public final class Tokenizer: Vocabulary {
    private typealias Scalars = ArraySlice<Unicode.Scalar>
    private typealias Added = TokenizerFiles.Added

    public let length: Int
    var start: Int32? { files.start }
    var end: Int32 { files.end }
    var pad: Int32 { files.pad }
    var comma: Int32? { files.vocabulary[",</w>"] }
    private let files: TokenizerFiles
    private let exact: Finder
    private let normalized: Finder
    private let addedByID: [Int32: Added]
    private let addedNames: Set<[Unicode.Scalar]>
    private static let mostText = 1 << 20

    /// - Parameters:
    ///   - files: bytes by name.
    ///   - length: ids that a text becomes.
    /// - Throws: `PlayerError` of the kind `bundle` for files that a tokenizer cannot be made of.
    public init(_ files: [String: [UInt8]], length: Int, at place: String = "tokenizer") throws {
        self.length = length
        self.files = try TokenizerFiles(files, at: place)
        exact = Finder(self.files.added.filter { !$0.normalized }) { $0 }
        normalized = Finder(self.files.added.filter(\.normalized)) { Tokenizer.normalForm($0[...]) }
        addedByID = Dictionary(self.files.added.map { ($0.id, $0) }) { first, _ in first }
        addedNames = Set(self.files.added.map(\.content))
    }

    /// `length` ids: the start, those of the text, the end, and padding.
    ///
    /// - Throws: `PlayerError` of the kind `usage` where the text is too long.
    public func callAsFunction(_ text: String) throws -> [Int32] {
        padded(try straight([[Piece(text: Array(text.unicodeScalars))]])[0])
    }

    func ids(_ text: [Unicode.Scalar]) throws -> [Int32] { encode(try spelledOut(text)) }

    /// Each added token of several vectors (NAME, NAME_1, ...) written as all of them.
    private func spelledOut(_ text: [Unicode.Scalar]) throws -> [Unicode.Scalar] {
        func refuse() -> PlayerError {
            PlayerError(
                .usage, "it is too long (expected at most \(Tokenizer.mostText) letters).", at: "prompt",
                fix: "shorten it")
        }
        guard text.count <= Tokenizer.mostText else { throw refuse() }
        var text = text
        var seen: Set<Int32> = []
        for token in encode(text).compactMap({ addedByID[$0] }) where seen.insert(token.id).inserted {
            if token.normalized, Tokenizer.normalForm(token.content[...]) != token.content { continue }
            var spelled = token.content
            var number = 1
            while true {
                let name = token.content + Array("_\(number)".unicodeScalars)
                guard addedNames.contains(name) else { break }
                spelled += [" "] + name
                number += 1
            }
            if number == 1 { continue }
            var result: [Unicode.Scalar] = []
            var at = 0
            while at < text.count {
                if text[at...].starts(with: token.content) {
                    result += spelled
                    at += token.content.count
                } else {
                    result.append(text[at])
                    at += 1
                }
                guard result.count <= Tokenizer.mostText else { throw refuse() }
            }
            text = result
        }
        return text
    }

    /// The ids of a text, without start and end.
    private func encode(_ text: [Unicode.Scalar]) -> [Int32] {
        var ids: [Int32] = []
        for part in exact.cut(text[...]) {
            guard case .text(let piece) = part else {
                if case .id(let id) = part { ids.append(id) }
                continue
            }
            for part in normalized.cut(Tokenizer.normalForm(piece)[...]) {
                switch part {
                case .id(let id): ids.append(id)
                case .text(let piece): words(piece) { ids += merged($0) }
                }
            }
        }
        return ids
    }

    // Texts -----------------------------------------------------------------------------------------------------------

    static func isSpace(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.value {
        case 0x09...0x0D, 0x20, 0x85, 0xA0, 0x1680, 0x2000...0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000: return true
        default: return false
        }
    }

    private static func normalForm(_ text: Scalars) -> [Unicode.Scalar] {
        var view = String.UnicodeScalarView()
        view.append(contentsOf: text)
        var result: [Unicode.Scalar] = []
        var wasSpace = false
        for scalar in String(view).precomposedStringWithCanonicalMapping.unicodeScalars {
            let space = isSpace(scalar)
            if !space {
                result += scalar.properties.lowercaseMapping.unicodeScalars
            } else if !wasSpace {
                result.append(" ")
            }
            wasSpace = space
        }
        return result
    }

    private enum Kind {
        case letter, number, space, other

        init(_ scalar: Unicode.Scalar) {
            switch scalar.properties.generalCategory {
            case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter: self = .letter
            case .decimalNumber, .letterNumber, .otherNumber: self = .number
            default: self = isSpace(scalar) ? .space : .other
            }
        }
    }

    /// In capitals they are no added tokens, and each is three words.
    private static let ends = ["<|startoftext|>", "<|endoftext|>"].map { Array($0.unicodeScalars) }
    private static let short = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"].map { Array($0.unicodeScalars) }

    private func words(_ text: Scalars, _ found: (Scalars) -> Void) {
        var at = text.startIndex
        while at < text.endIndex {
            if let end = Tokenizer.ends.first(where: { text[at...].starts(with: $0) }) {
                let close = at + end.count
                for word in [at..<at + 2, at + 2..<close - 2, close - 2..<close] { found(text[word]) }
                at = close
                continue
            }
            if let short = Tokenizer.short.first(where: { text[at...].starts(with: $0) }) {
                found(text[at..<at + short.count])
                at += short.count
                continue
            }
            let kind = Kind(text[at])
            var end = at + 1
            if kind == .letter || kind == .other {
                while end < text.endIndex, Kind(text[end]) == kind { end += 1 }
            }
            if kind != .space { found(text[at..<end]) }
            at = end
        }
    }

    // Byte pairs ------------------------------------------------------------------------------------------------------

    private func merged(_ word: Scalars) -> [Int32] {
        var view = String.UnicodeScalarView()
        view.append(contentsOf: word)
        let bytes = Array(String(view).utf8)
        var ids = bytes.map { files.letters[Int($0)] }
        if let last = bytes.last { ids[ids.count - 1] = files.lastLetters[Int(last)] }
        var next = Array(1...ids.count)  // the piece after each; one that was joined to another is -1 in `ids`
        var before = Array(-1..<ids.count - 1)
        var queue = MergeQueue()
        func consider(_ at: Int) {
            let after = next[at]
            guard after < ids.count else { return }
            let pair = TokenizerFiles.Pair(left: ids[at], right: ids[after])
            if let merge = files.merges[pair] { queue.add(.init(rank: merge.rank, at: at, pair: pair)) }
        }
        for at in ids.indices { consider(at) }
        while let best = queue.take() {
            let at = best.at
            guard ids[at] == best.pair.left, next[at] < ids.count, ids[next[at]] == best.pair.right else { continue }
            let gone = next[at]
            ids[at] = files.merges[best.pair]!.id
            ids[gone] = -1
            next[at] = next[gone]
            if next[at] < ids.count { before[next[at]] = at }
            consider(at)
            if before[at] >= 0 { consider(before[at]) }
        }
        return ids.filter { $0 >= 0 }
    }
}

/// Pairs that may be joined, the one of the least rank first, of several the one most to the left: a binary heap.
private struct MergeQueue {
    struct Entry {
        let rank: Int
        let at: Int
        let pair: TokenizerFiles.Pair

        func isBefore(_ other: Entry) -> Bool { (rank, at) < (other.rank, other.at) }
    }

    private var entries: [Entry] = []

    mutating func add(_ entry: Entry) {
        entries.append(entry)
        var child = entries.count - 1
        while child > 0, entries[child].isBefore(entries[(child - 1) / 2]) {
            entries.swapAt(child, (child - 1) / 2)
            child = (child - 1) / 2
        }
    }

    mutating func take() -> Entry? {
        guard let first = entries.first else { return nil }
        let last = entries.removeLast()
        if entries.isEmpty { return first }
        entries[0] = last
        var parent = 0
        while true {
            var least = parent
            for child in [2 * parent + 1, 2 * parent + 2] where child < entries.count {
                if entries[child].isBefore(entries[least]) { least = child }
            }
            if least == parent { return first }
            entries.swapAt(parent, least)
            parent = least
        }
    }
}

/// Finds added tokens in a text, from left to right, at each place the longest that stands there.
private struct Finder {
    enum Part {
        case text(ArraySlice<Unicode.Scalar>)
        case id(Int32)
    }

    private var byFirst: [Unicode.Scalar: [(name: [Unicode.Scalar], token: TokenizerFiles.Added)]] = [:]

    init(_ tokens: [TokenizerFiles.Added], _ spelling: ([Unicode.Scalar]) -> [Unicode.Scalar]) {
        for token in tokens {
            let name = spelling(token.content)
            if let first = name.first { byFirst[first, default: []].append((name, token)) }
        }
        for first in byFirst.keys { byFirst[first]!.sort { $0.name.count > $1.name.count } }
    }

    /// The text in parts: ids of tokens, and what lies between them.
    func cut(_ text: ArraySlice<Unicode.Scalar>) -> [Part] {
        var parts: [Part] = []
        var done = text.startIndex
        var at = text.startIndex
        while at < text.endIndex {
            guard let (name, token) = byFirst[text[at]]?.first(where: { text[at...].starts(with: $0.name) }) else {
                at += 1
                continue
            }
            let end = at + name.count
            let isInWord =
                at > text.startIndex && Finder.isWord(text[at - 1]) || end < text.endIndex && Finder.isWord(text[end])
            if !token.singleWord || !isInWord {
                var start = max(at, done)
                if token.stripsLeft {
                    while start > done, Tokenizer.isSpace(text[start - 1]) { start -= 1 }
                }
                if done < start { parts.append(.text(text[done..<start])) }
                parts.append(.id(token.id))
                done = end
                if token.stripsRight {
                    while done < text.endIndex, Tokenizer.isSpace(text[done]) { done += 1 }
                }
            }
            at = end
        }
        if done < text.endIndex { parts.append(.text(text[done...])) }
        return parts
    }

    /// Unicode's `\w`.
    private static func isWord(_ scalar: Unicode.Scalar) -> Bool {
        if scalar.value == 0x200C || scalar.value == 0x200D || scalar.properties.isAlphabetic { return true }
        switch scalar.properties.generalCategory {
        case .nonspacingMark, .spacingMark, .enclosingMark, .decimalNumber, .connectorPunctuation: return true
        default: return false
        }
    }
}
