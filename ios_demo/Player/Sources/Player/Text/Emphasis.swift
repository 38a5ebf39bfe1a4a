import Foundation

/// What signs in a text mean: nothing; or how weights act on a text encoder's states (docs/prompts.md).
public enum Emphasis: String, Sendable, CaseIterable {
    case none, mean, compel

    /// Weighted states of a chunk.
    ///
    /// - Parameter encode: f32 states [length, width] of what a text encoder reads for these tokens.
    func states(_ chunk: [Token], _ vocabulary: Vocabulary, _ encode: ([Token]) throws -> [Float]) throws -> [Float] {
        guard chunk.contains(where: { $0.weight != 1 }) else { return try encode(chunk) }
        switch self {
        case .none: return try encode(chunk)
        case .mean: return meanKept(try encode(chunk), weights(chunk, vocabulary))
        case .compel: return try fromEmpty(chunk, vocabulary, encode)
        }
    }

    /// f32 per position; 1 of the start, the end and padding.
    private func weights(_ chunk: [Token], _ vocabulary: Vocabulary) -> [Float] {
        let own = (vocabulary.start == nil ? [] : [1]) + chunk.map { Float($0.weight) }
        return own + [Float](repeating: 1, count: max(vocabulary.length - own.count, 0))
    }

    /// States times weights, brought back to the mean that they had.
    private func meanKept(_ states: [Float], _ weights: [Float]) -> [Float] {
        func mean(_ values: [Float]) -> Double { values.reduce(0) { $0 + Double($1) } / Double(values.count) }
        let width = states.count / weights.count
        let scaled = states.enumerated().map { weights[$0.offset / width] * $0.element }
        let after = mean(scaled)
        let ratio = after == 0 ? 1 : Float(mean(states) / after)
        return scaled.map { ratio * $0 }
    }

    /// States moved away from the empty text's by their weights, and, of weights below 1, towards those of the text
    /// without these words.
    private func fromEmpty(
        _ chunk: [Token], _ vocabulary: Vocabulary, _ encode: ([Token]) throws -> [Float]
    ) throws -> [Float] {
        let least = 1e-5  // of a weight, where it says how far to go towards a text without the piece
        let empty = try encode([])
        func moved(_ chunk: [Token]) throws -> [Float] {
            let weights = weights(chunk, vocabulary)
            let width = empty.count / weights.count
            return try encode(chunk).enumerated().map { i, value in
                let weight = weights[i / width]
                return weight == 1 ? value : empty[i] + weight * (value - empty[i])
            }
        }
        var lessened: [(piece: Int, part: Double)] = []
        for token in chunk where token.weight < 1 && lessened.last?.piece != token.piece {
            lessened.append((token.piece, tan((1 - max(token.weight, least)) * Double.pi / 2)))
        }
        let total = lessened.reduce(1) { $0 + $1.part }
        let own = Float(1 / total)
        var states = try moved(chunk).map { own * $0 }
        for (piece, part) in lessened {
            let factor = Float(part / total)
            let other = try moved(chunk.filter { $0.piece != piece })
            for i in states.indices { states[i] = states[i] + factor * other[i] }
        }
        return states
    }
}
