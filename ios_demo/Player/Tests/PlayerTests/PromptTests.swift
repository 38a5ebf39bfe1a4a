import XCTest

@testable import Player

/// What people write into prompts, against the goldens: signs, chunks, weighted states.
final class PromptTests: XCTestCase {
    private func check(_ tokens: [Token], _ expected: JSON, _ text: String) {
        XCTAssertEqual(tokens.map { Int($0.id) }, expected["ids"].ints, text)
        XCTAssertEqual(tokens.map(\.weight), expected["weights"].rows.map(\.double), text)
    }

    func testSignsAndChunks() throws {
        let golden = try Repository.json("prompts/reading.json")
        let tokenizer = try Tokenizer(PictureTests.clip, length: golden["length"].int)
        for row in golden["texts"].rows {
            let text = row["text"].string
            let parts = PromptReader.parts(text, signs: true, mayHaveParts: true)
            XCTAssertEqual(parts.count, row["parts"].rows.count, text)
            for (part, expected) in zip(parts, row["parts"].rows) {
                XCTAssertEqual(part.weight, expected["weight"].double, text)
                let sections = expected["sections"].rows.map { $0.rows }
                XCTAssertEqual(
                    part.sections.map { $0.map { Exact(String(String.UnicodeScalarView($0.text))) } },
                    sections.map { $0.map { Exact($0.rows[0].string) } })
                XCTAssertEqual(
                    part.sections.map { $0.map(\.weight) }, sections.map { $0.map { $0.rows[1].double } }, text)
                let chunks = try tokenizer.chunks(part.sections)
                XCTAssertEqual(chunks.count, expected["chunks"].rows.count, text)
                for (chunk, one) in zip(chunks, expected["chunks"].rows) { check(chunk, one, text) }
                check(try tokenizer.straight(part.sections)[0], expected["truncated"], text)
            }
        }
    }

    func testWeightedStates() throws {
        let golden = try Repository.json("prompts/states.json")
        let tokenizer = try Tokenizer(PictureTests.clip, length: golden["length"].int)
        for row in golden["texts"].rows {
            let text = row["text"].string
            let known = Dictionary(
                uniqueKeysWithValues: row["encodings"].rows.map { ($0["ids"].ints, $0["states"].flat.map(Float.init)) })
            let part = PromptReader.parts(text, signs: true, mayHaveParts: false)[0]
            let chunks = try tokenizer.chunks(part.sections)
            XCTAssertEqual(chunks.count, 1)
            for way in [Emphasis.mean, .compel] {
                let states = try way.states(chunks[0], tokenizer) { known[tokenizer.padded($0).map { Int($0) }]! }
                for (got, expected) in zip(states, row[way.rawValue].flat) {
                    XCTAssertEqual(Double(got), expected, accuracy: 2e-6 * max(abs(expected), 1), "\(way): \(text)")
                }
            }
        }
    }
}
