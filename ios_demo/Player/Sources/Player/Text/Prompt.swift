import Foundation

/// Text of one weight. It is made into tokens by itself.
struct Piece {
    var text: [Unicode.Scalar]
    var weight = 1.0
}

/// What lies between two ANDs: sections, the pieces between two BREAKs each; at least one.
struct PromptPart {
    let weight: Double
    let sections: [[Piece]]
}

/// What people write into prompts beside words (docs/prompts.md, "Reading a text"). Every text can be read.
struct PromptReader {
    private typealias Letters = ArraySlice<Unicode.Scalar>

    private static let round = 1.1, square = 1 / 1.1  // what brackets without a number multiply with
    private static let largest = 1000.0  // of a weight, either sign

    private var found: [Piece?] = []  // nil: BREAK
    // Where brackets that are not closed yet begin.
    private var rounds: [Int] = []
    private var squares: [Int] = []

    /// At least one part.
    ///
    /// - Parameters:
    ///   - signs: false: all is text.
    ///   - mayHaveParts: whether AND divides it.
    static func parts(_ text: String, signs: Bool, mayHaveParts: Bool) -> [PromptPart] {
        let letters = Array(text.unicodeScalars)
        guard signs else { return [PromptPart(weight: 1, sections: [[Piece(text: letters)]])] }
        let texts = mayHaveParts ? split(letters[...], "AND") : [letters[...]]
        return texts.map { part in
            var (words, weight) = (part, 1.0)
            if texts.count > 1, let colon = part.lastIndex(of: ":"),
                let (number, end) = PromptReader.number(part, after: colon), end == part.endIndex
            {
                (words, weight) = (part[..<colon], number)
            }
            var reader = PromptReader()
            return PromptPart(weight: weight, sections: reader.sections(words))
        }
    }

    private mutating func sections(_ text: Letters) -> [[Piece]] {
        var done = text.startIndex
        var at = text.startIndex
        /// A sign is here: what is before it is text.
        func sign(_ size: Int, _ reader: inout PromptReader) {
            reader.addBetween(text[done..<at])
            done = at + size
        }
        while at < text.endIndex {
            let letter = text[at]
            switch letter {
            case "\\":
                let next = at + 1 < text.endIndex ? text[at + 1] : " "
                let isEscape = ["(", ")", "[", "]", "\\"].contains(next)
                sign(isEscape ? 2 : 1, &self)
                if isEscape { found.append(Piece(text: [next])) }
            case ":":
                guard let (number, end) = PromptReader.number(text, after: at), end < text.endIndex, text[end] == ")"
                else { break }
                sign(end + 1 - at, &self)
                if !close(\.rounds, number) { found.append(Piece(text: Array(text[at...end]))) }
            case "(", "[":
                sign(1, &self)
                if letter == "(" { rounds.append(found.count) } else { squares.append(found.count) }
            case ")", "]":
                sign(1, &self)
                let isClosed =
                    letter == ")" ? close(\.rounds, PromptReader.round) : close(\.squares, PromptReader.square)
                if !isClosed { found.append(Piece(text: [letter])) }
            default: break
            }
            at = max(at + 1, done)
        }
        addBetween(text[done...])
        closeAll(rounds, PromptReader.round)
        closeAll(squares, PromptReader.square)
        return joined()
    }

    /// Text between signs, and the BREAKs in it.
    private mutating func addBetween(_ text: Letters) {
        let parts = PromptReader.split(text, "BREAK")
        for (number, part) in parts.enumerated() {
            var part = part
            if number > 0 {
                found.append(nil)
                part = part.drop(while: Tokenizer.isSpace)
            }
            if number + 1 < parts.count {
                while let last = part.last, Tokenizer.isSpace(last) { part = part.dropLast() }
            }
            if !part.isEmpty { found.append(Piece(text: Array(part))) }
        }
    }

    private mutating func close(_ opened: WritableKeyPath<PromptReader, [Int]>, _ factor: Double) -> Bool {
        guard let start = self[keyPath: opened].popLast() else { return false }
        for i in start..<found.count { multiply(i, factor) }
        return true
    }

    /// Brackets that nothing closes reach to the end, in the order in which they were opened.
    private mutating func closeAll(_ opened: [Int], _ factor: Double) {
        var before = 0
        for i in found.indices {
            while before < opened.count, opened[before] <= i { before += 1 }
            for _ in 0..<before {
                let weight = found[i]?.weight
                multiply(i, factor)
                if found[i]?.weight == weight { break }  // it will not change any more
            }
        }
    }

    private mutating func multiply(_ place: Int, _ factor: Double) {
        guard let weight = found[place]?.weight else { return }
        found[place]!.weight = PromptReader.bounded(weight * factor)
    }

    /// Neighbours of exactly one weight are one piece.
    private func joined() -> [[Piece]] {
        var sections: [[Piece]] = [[]]
        for piece in found {
            guard let piece else {
                sections.append([])
                continue
            }
            let section = sections.count - 1
            if let last = sections[section].last, last.weight == piece.weight {
                sections[section][sections[section].count - 1].text += piece.text
            } else {
                sections[section].append(piece)
            }
        }
        return sections
    }

    private static func bounded(_ weight: Double) -> Double { min(max(weight, -largest), largest) }

    private static func isDigit(_ letter: Unicode.Scalar) -> Bool { ("0"..."9").contains(letter) }

    private static func isWord(_ letter: Unicode.Scalar) -> Bool {
        isDigit(letter) || ("a"..."z").contains(letter) || ("A"..."Z").contains(letter) || letter == "_"
    }

    /// What is between the places where a word stands that has no word's letter before or after it.
    private static func split(_ text: Letters, _ word: String) -> [Letters] {
        let word = Array(word.unicodeScalars)
        var parts: [Letters] = []
        var begin = text.startIndex
        var at = text.startIndex
        while at + word.count <= text.endIndex {
            let end = at + word.count
            let isAlone =
                text[at] == word[0] && text[at..<end].elementsEqual(word)
                && (at == text.startIndex || !isWord(text[at - 1])) && (end == text.endIndex || !isWord(text[end]))
            guard isAlone else {
                at += 1
                continue
            }
            parts.append(text[begin..<at])
            begin = end
            at = end
        }
        return parts + [text[begin...]]
    }

    /// The number after a colon, with white space around it, and where that ends; nil where there is something else.
    private static func number(_ text: Letters, after colon: Int) -> (Double, end: Int)? {
        var at = colon + 1
        while at < text.endIndex, Tokenizer.isSpace(text[at]) { at += 1 }
        var spelled = ""
        var digits = 0
        var hasDot = false
        if at < text.endIndex, text[at] == "+" || text[at] == "-" {
            spelled.unicodeScalars.append(text[at])
            at += 1
        }
        while at < text.endIndex, isDigit(text[at]) || (text[at] == "." && !hasDot) {
            if text[at] == "." { hasDot = true } else { digits += 1 }
            spelled.unicodeScalars.append(text[at])
            at += 1
        }
        guard digits > 0 else { return nil }
        while at < text.endIndex, Tokenizer.isSpace(text[at]) { at += 1 }
        return (bounded(strtod(spelled, nil)), at)
    }
}
