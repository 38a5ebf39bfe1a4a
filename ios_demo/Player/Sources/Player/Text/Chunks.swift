/// An id, its weight, and which of the text's pieces it is of.
struct Token {
    let id: Int32
    let weight: Double
    let piece: Int
}

/// What cuts texts into ids, and says how many of them a text encoder takes.
protocol Vocabulary: AnyObject {
    /// How many ids a text encoder takes at once.
    var length: Int { get }
    /// The start's id, if there is a start.
    var start: Int32? { get }
    var end: Int32 { get }
    var pad: Int32 { get }
    /// The id of a comma, if it has one.
    var comma: Int32? { get }

    /// The ids of a text by itself, without start and end.
    ///
    /// - Throws: `PlayerError` of the kind `usage` where the text is too long.
    func ids(_ text: [Unicode.Scalar]) throws -> [Int32]
}

extension Vocabulary {
    /// Ids between the start and the end.
    var room: Int { max(length - (start == nil ? 1 : 2), 0) }

    /// Chunks of up to `room` tokens of a text, at least one. A section begins a new one, and what does not fit begins
    /// one after the last comma, if that is not too far back (docs/prompts.md, "Chunks").
    func chunks(_ sections: [[Piece]]) throws -> [[Token]] {
        let backtrack = 20
        guard room > 0 else { return [[]] }
        var done: [[Token]] = []
        var pieces = 0
        for (number, section) in sections.enumerated() {
            var chunk: [Token] = []
            var lastComma: Int?  // its place in the chunk
            for token in try tokens(section, &pieces) {
                if token.id == comma {
                    lastComma = chunk.count
                } else if chunk.count == room, let place = lastComma, room - place <= backtrack {
                    done.append(Array(chunk[...place]))
                    chunk = Array(chunk[(place + 1)...])
                    lastComma = nil
                }
                if chunk.count == room {
                    done.append(chunk)
                    (chunk, lastComma) = ([], nil)
                }
                chunk.append(token)
            }
            if !chunk.isEmpty || number + 1 < sections.count || done.isEmpty { done.append(chunk) }
        }
        return done
    }

    /// All tokens, cut where a chunk is full: BREAK and commas mean nothing here.
    func straight(_ sections: [[Piece]]) throws -> [[Token]] {
        guard room > 0 else { return [[]] }
        var pieces = 0
        let tokens = try sections.flatMap { try self.tokens($0, &pieces) }
        return stride(from: 0, to: max(tokens.count, 1), by: room).map {
            Array(tokens[$0..<min($0 + room, tokens.count)])
        }
    }

    private func tokens(_ section: [Piece], _ pieces: inout Int) throws -> [Token] {
        var found: [Token] = []
        for piece in section {
            found += try ids(piece.text).map { Token(id: $0, weight: piece.weight, piece: pieces) }
            pieces += 1
        }
        return found
    }

    /// What a text encoder reads: the start, the tokens' ids, the end and padding.
    func padded(_ chunk: [Token]) -> [Int32] {
        let ids = ((start.map { [$0] } ?? []) + chunk.map(\.id)).prefix(max(length - 1, 0)) + [end]
        return ids + [Int32](repeating: pad, count: max(length - ids.count, 0))
    }
}
