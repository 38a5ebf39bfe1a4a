/// How a text is read that is longer than a text encoder takes at once.
public enum LongTexts: String, Sendable, CaseIterable {
    /// Its beginning.
    case truncate
    /// In chunks, and an error where the bundle has no plans for so many.
    case chunk
    /// In as many chunks as the bundle has plans for.
    case fit
}

/// The texts of one picture as passes read them: parts, and chunks of tokens (docs/pipeline.md, "Texts").
struct Texts {
    struct Part {
        let text: String
        let isGiven: Bool
        let weight: Float
        fileprivate let sections: [[Piece]]
        fileprivate var read: [String: [[Token]]] = [:]  // by tokenizer, of those that roles use
        /// How many chunks it has, by the tokenizer that gives most.
        fileprivate(set) var chunks = 1

        /// Tokens of a chunk; none of one that this tokenizer does not give.
        func tokens(_ tokenizer: String, _ chunk: Int) -> [Token] {
            guard let found = read[tokenizer], chunk < min(chunks, found.count) else { return [] }
            return found[chunk]
        }
    }

    let emphasis: Emphasis
    /// Those of a text follow each other.
    private(set) var parts: [Part] = []
    /// For people: what is not read.
    private(set) var notes: [String] = []

    /// - Parameters:
    ///   - texts: those that passes use.
    ///   - most: how many chunks the bundle has plans for.
    /// - Throws: `PlayerError` of the kind `usage` for a text of more chunks, or that is too long.
    init(
        _ spec: PipelineSpec, _ vocabularies: [String: Vocabulary], texts: [String], given: [String: String],
        emphasis: Emphasis = .none, long: LongTexts = .truncate, most: Int = 1
    ) throws {
        self.emphasis = emphasis
        let used = Set(spec.roles.compactMap(\.tokenizer))
        let read = vocabularies.filter { used.contains($0.key) }
        for text in texts {
            let found = PromptReader.parts(
                given[text] ?? "", signs: emphasis != .none, mayHaveParts: spec.mayHaveParts(text))
            for one in found {
                var part = Part(
                    text: text, isGiven: given[text] != nil, weight: Float(one.weight), sections: one.sections)
                try cut(&part, read, long, most)
                parts.append(part)
            }
        }
    }

    private mutating func cut(
        _ part: inout Part, _ vocabularies: [String: Vocabulary], _ long: LongTexts, _ most: Int
    ) throws {
        let isStraight = long == .truncate || (long == .fit && most == 1)
        part.read = try vocabularies.mapValues {
            try isStraight ? $0.straight(part.sections) : $0.chunks(part.sections)
        }
        let wanted = part.read.values.map(\.count).max() ?? 1
        guard long != .chunk || wanted <= most else {
            throw PlayerError(
                .usage, "it takes \(wanted) chunks of tokens, and the bundle has plans for \(most).", at: part.text,
                fix: "convert with `--chunks \(wanted)`, or draw with truncated texts")
        }
        part.chunks = isStraight ? 1 : min(wanted, most)
        let leftOut = part.read.values.map { $0.dropFirst(part.chunks).reduce(0) { $0 + $1.count } }.max() ?? 0
        if leftOut > 0 {
            let advice = long == .fit ? "; convert with --chunks for more" : ""
            notes.append("\(leftOut) tokens of the text \(part.text) are more than the model reads\(advice)")
        }
    }

    /// The parts of a text, by their numbers.
    func numbers(of text: String) -> [Int] { parts.indices.filter { parts[$0].text == text } }

    /// How many chunks a part has; 1 of no part.
    func chunks(_ part: Int?) -> Int { part.map { parts[$0].chunks } ?? 1 }

    /// What must be said beside the texts to draw the picture again: whether signs in them mean anything, and whether
    /// one has several chunks.
    func areWeighted(_ given: [String: String]) -> Bool {
        guard emphasis != .none else { return false }
        return Set(parts.map(\.text)).contains { text in
            let own = numbers(of: text).map { parts[$0] }
            guard own.count == 1, own[0].sections.count == 1 else { return true }
            let pieces = own[0].sections[0]
            guard let piece = pieces.first else { return false }
            let isPlain = pieces.count == 1 && piece.weight == 1
            return !isPlain || piece.text != Array((given[text] ?? "").unicodeScalars)
        }
    }
}

extension Texts {
    /// Whether zeros stand for a text in use where it is not given: it is not the same as an empty one then.
    func standsForZeros(_ text: String, _ spec: PipelineSpec) -> Bool {
        guard parts.contains(where: { $0.text == text }) else { return false }
        return spec.roles.contains { role in
            role.feed.contains {
                if case .tokens(_, zerosIfAbsent: true) = $0.feed { return true } else { return false }
            }
        }
    }
}

extension PipelineSpec {
    /// Whether all passes of a text are compared with another: what guidance adds to.
    func mayHaveParts(_ text: String) -> Bool {
        let passes = denoise.flatMap { loop in
            loop.passes.indices.filter { loop.passes[$0].text == text }.map { (loop, $0) }
        }
        return !passes.isEmpty
            && passes.allSatisfy { loop, pass in
                loop.add.contains { $0.plus == pass } && loop.first != pass && !loop.add.contains { $0.minus == pass }
            }
    }
}
