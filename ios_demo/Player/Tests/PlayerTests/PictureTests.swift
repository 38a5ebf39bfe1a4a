import XCTest

@testable import Player

/// What a picture is computed from, against the goldens: noise, sampler tables, tokens, prepared pictures.
final class PictureTests: XCTestCase {
    /// What no `Int` holds is in the file's name.
    private func seed(_ value: JSON, _ name: String) -> UInt64 {
        if case .integer(let seed) = value { return UInt64(bitPattern: Int64(seed)) }
        return UInt64(name.components(separatedBy: "seed_")[1])!
    }

    func testNoiseOfSeeds() throws {
        for name in try Repository.names("noise") where !name.hasPrefix("a1111_") {
            let rows = try Repository.json("noise/\(name).json")
            let mode = rows.has("mode") ? SeedMode(rawValue: rows["mode"].string)! : .torch
            var noise = Noise(Seeds(seed: seed(rows["seed"], name), mode: mode))
            for draw in rows["draws"].rows {
                let got = noise.draw(draw["shape"].ints.reduce(1, *))
                if draw.has("sha256") {
                    XCTAssertEqual(got.withUnsafeBytes { SHA256.hex(of: $0) }, draw["sha256"].string, name)
                } else {
                    XCTAssertEqual(got.map(\.bitPattern), draw["values"].floats.map(\.bitPattern), name)
                }
            }
        }
    }

    func testNoiseInTheOrderOfWebUI() throws {
        for name in try Repository.names("noise") where name.hasPrefix("a1111_") {
            let rows = try Repository.json("noise/\(name).json")
            let shape = rows["shape"].ints
            var noise = Noise(
                Seeds(
                    seed: seed(rows["seed"], name), mode: .a1111, variationSeed: seed(rows["variation_seed"], name),
                    variationStrength: rows["variation_strength"].double,
                    delta: Int64(rows["noise_seed_delta"].int)))
            let initial = try noise.initial(shape.reduce(1, *), height: shape[2], width: shape[3])
            XCTAssertEqual(initial.map(\.bitPattern), rows["initial"].floats.map(\.bitPattern), name)
            noise.enterLoop()
            for draw in rows["loop"].rows { XCTAssertEqual(noise.draw(draw.rows.count), draw.floats, name) }
        }
    }

    func testNoisesThatAreAlmostAlikeAreSummed() {
        let found = Noise.between([1, 2], [1.5, 2], 0.25, height: 1, width: 2)
        XCTAssertEqual(found, [1.375, 2])  // columns of one number are alike
    }

    func testSamplerTables() throws {
        for name in try Repository.names("samplers") {
            let rows = try Repository.json("samplers/\(name).json")
            let table = try SamplerTable(rows["table"], at: name)
            let (image, noise) = (rows["image"].floats, rows["noise"].floats)
            func replay(_ call: Int, _ slot: [Float]) throws -> [Float] {
                var draws = rows["draws"].rows.map(\.floats)[...]
                return table.replay(
                    call..<table.calls.count, slot: slot, predict: { _, input, _ in input.map { $0 * 0.5 } },
                    draw: { draws.removeFirst() }, after: { _, _ in })
            }
            XCTAssertEqual(try replay(0, table.start(noise)), rows["result"].floats, name)
            for row in rows["begun"].rows {
                let call = row["call"].int
                XCTAssertEqual(
                    try replay(call, table.start(noise, image: image, call: call)), row["result"].floats, name)
            }
        }
        for row in try Repository.json("samplers/refused.json").rows {
            let table = try Repository.json("samplers/\(row["table"].string).json")["table"]
            let changed = table.changed(at: row["path"].rows, to: row["value"])!
            XCTAssertNotNil(refusal { _ = try SamplerTable(changed, at: "table") }, row.written)
        }
    }

    func testPartsOfASchedule() throws {
        let table = try SamplerTable(try Repository.json("samplers/euler_4.json")["table"], at: "table")
        let times = table.calls.map(\.timestep)
        let half = try table.part(start: nil, end: 0.5)
        XCTAssertEqual(half, 0..<times.filter { $0 >= 500 }.count)
        XCTAssertEqual(try table.part(start: 0.5, end: nil), half.upperBound..<4)
        XCTAssertNotNil(refusal { _ = try table.part(start: nil, end: 0.0001) })
        let solver = try SamplerTable(try Repository.json("samplers/dpmpp_2m_5.json")["table"], at: "table")
        XCTAssertNotNil(refusal { _ = try solver.part(start: 0.5, end: nil) })
        var sample: [Float] = [5, 7]
        table.putBack(3, &sample, mask: [0, 1], clean: [2, 3], noise: [10, 10])
        XCTAssertEqual(sample, [2, 7])  // after the last call nothing is noisy
    }

    static let clip: [String: [UInt8]] = {
        let folder = Repository.root.appendingPathComponent("ondevice/models/clip_tokenizer")
        return Dictionary(
            uniqueKeysWithValues: ["vocab.json", "merges.txt"].map {
                ($0, [UInt8](try! Data(contentsOf: folder.appendingPathComponent($0))))
            })
    }()

    func testTokens() throws {
        for name in try Repository.names("tokens") {
            let rows = try Repository.json("tokens/\(name).json")
            let (length, pad) = (rows["length"].int, Int32(rows["pad"].int))
            let own = Dictionary(
                uniqueKeysWithValues: rows["files"].fields.map { ($0.key.text, [UInt8]($0.value.written.utf8)) })
            let tokenizer = try Tokenizer(PictureTests.clip.merging(own) { $1 }, length: length)
            for row in rows["texts"].rows {
                let ids = row["ids"].ints.map { Int32($0) }
                let expected = ids + [Int32](repeating: pad, count: length - ids.count)
                XCTAssertEqual(try tokenizer(row["text"].string), expected, "\(name): \(row["text"].string)")
            }
            if name == "pad_end" {
                let prompts = Repository.root.appendingPathComponent("tests/data/prompts/clip_tokens.json")
                for row in try JSON(parsing: try Data(contentsOf: prompts), at: "prompts")["prompts"].rows {
                    let expected = row["ids77"]["pad_eos"].ints.map { Int32($0) }
                    XCTAssertEqual(try tokenizer(row["prompt"].string), expected, row["prompt"].string)
                }
            }
        }
    }

    func testUnigramTokens() throws {
        let rows = try Repository.json("tokens/unigram/small.json")
        let length = rows["length"].int
        let vocabulary = rows["files"]["unigram.json"]
        let charsmap = hexadecimal(rows["files"]["charsmap.bin"].string)
        func files(_ value: JSON, _ table: [UInt8]? = nil) -> [String: [UInt8]] {
            ["unigram.json": [UInt8](value.written.utf8), "charsmap.bin": table ?? charsmap]
        }
        let tokenizer = try UnigramTokenizer(files(vocabulary), length: length)
        for row in rows["texts"].rows {
            let text = Array(row["text"].string.unicodeScalars)
            XCTAssertEqual(try tokenizer.ids(text).map { Int($0) } + [1], row["ids"].ints, row["text"].string)
            let chunk = try tokenizer.straight([[Piece(text: text)]])[0]
            XCTAssertEqual(tokenizer.padded(chunk).map { Int($0) }, row["padded"].ints, row["text"].string)
        }
        func change(_ path: [JSON], _ value: JSON?) -> JSON { vocabulary.changed(at: path, to: value)! }
        let wrong = [
            files(change([.text("end")], .integer(4))), files(change([.text("unknown")], .integer(1 << 21))),
            files(change([.text("pieces")], .list([]))), files(change([.text("added")], nil)),
            files(change([.text("pieces"), .integer(4), .integer(1)], .real(1e12))),
            files(change([.text("pieces"), .integer(5)], vocabulary["pieces"].rows[4])),
            files(vocabulary, Array(charsmap.dropLast())), files(vocabulary, [8, 0, 0, 0]),
        ]
        for files in wrong { XCTAssertNotNil(refusal { _ = try UnigramTokenizer(files, length: length) }) }
    }

    /// The bytes' letters of CLIP's vocabulary, the start and the end, and no merges.
    private func smallVocabulary() throws -> [String: [UInt8]] {
        let whole = try JSON(parsing: PictureTests.clip["vocab.json"]!, at: "vocab.json")
        var kept = JSONObject()
        for (token, id) in whole.fields where id.int < 512 || id.int >= 49406 { _ = kept.add(token, id) }
        return ["vocab.json": Array(JSON.object(kept).written.utf8), "merges.txt": Array("#version: 0.2\n".utf8)]
    }

    func testTokenizersThatAreRefused() throws {
        let small = try smallVocabulary()
        XCTAssertNoThrow(try Tokenizer(small, length: 77))
        let changes: [(String, [UInt8]?)] = [
            ("vocab.json", nil), ("merges.txt", nil), ("vocab.json", Array("{\"a\":0}".utf8)),
            ("merges.txt", Array("a b\n".utf8)), ("merges.txt", Array("#version: 0.2\na nosuchtoken\n".utf8)),
            ("merges.txt", [0xFF]), ("tokenizer_config.json", Array("{\"bos_token\":\"nosuchtoken\"}".utf8)),
            ("tokenizer_config.json", Array("{\"added_tokens_decoder\":{\"x\":{\"content\":\"a\"}}}".utf8)),
            ("tokenizer_config.json", Array("{\"added_tokens_decoder\":{\"5\":{\"content\":\"\"}}}".utf8)),
            (
                "tokenizer_config.json",
                Array("{\"added_tokens_decoder\":{\"5\":{\"content\":\"a\",\"lstrip\":1}}}".utf8)
            ),
        ]
        for (name, data) in changes {
            var files = small
            files[name] = data
            XCTAssertNotNil(refusal { _ = try Tokenizer(files, length: 77) }, name)
        }
        let tokenizer = try Tokenizer(PictureTests.clip, length: 77)
        XCTAssertNotNil(refusal { _ = try tokenizer(String(repeating: "a", count: (1 << 20) + 1)) })
        XCTAssertEqual(try tokenizer(String(repeating: "ab", count: 1 << 14)).count, 77)  // in less than squared time
    }

    func testPassesAreCombinedAndRescaled() {
        func numbers(_ chosen: [String: Double]) -> Numbers { Numbers([], chosen: chosen) }
        let runs = (0..<2).map { Spoken(pass: $0, part: nil, weight: 1, zeros: []) }
        let passes = ["negative_prompt", "prompt"].map { Pass(text: $0, zeros: []) }
        func loop(rescale: String?) -> Loop {
            Loop(
                from: .constant(0), until: .constant(1), roles: [], prediction: "prediction", passes: passes, first: 0,
                add: [Loop.Term(number: "g", plus: 1, minus: 0)],
                guided: Loop.Guided(number: "g", above: 1, alone: 1), rescale: rescale)
        }
        let outputs: [[Float]] = [[0, 0], [1, 3]]
        XCTAssertEqual(loop(rescale: nil).combined(outputs, runs, numbers(["g": 2])), [2, 6])
        XCTAssertEqual(loop(rescale: "phi").combined(outputs, runs, numbers(["g": 2, "phi": 0.5])), [1.5, 4.5])
        XCTAssertEqual(loop(rescale: "phi").combined([[7, 8]], [runs[0]], numbers(["g": 1])), [7, 8])
        XCTAssertEqual(loop(rescale: nil).passesInUse(numbers(["g": 1])).map(\.text), ["prompt"])
        XCTAssertEqual(loop(rescale: nil).passesInUse(numbers(["g": 1.1])).count, 2)
    }

    func testPicturesAreFitted() throws {
        for row in try Repository.json("pictures/fit.json").rows {
            let rows = row["pixels"].rows
            let pixels = Pixels(
                width: rows[0].rows.count, height: rows.count, bytes: row["pixels"].flat.map { UInt8($0) })
            let resized = pixels.resized(width: row["width"].int, height: row["height"].int)
            XCTAssertEqual(resized.bytes, row["resized"].flat.map { UInt8($0) })
            let tensor = resized.tensor.floats
            let plane = resized.width * resized.height
            XCTAssertEqual([tensor[0], tensor[plane], tensor[2 * plane]], row["first"].floats)
        }
    }
}
