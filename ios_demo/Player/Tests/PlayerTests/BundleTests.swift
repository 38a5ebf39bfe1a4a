import Foundation
import XCTest

@testable import Player

final class BundleTests: XCTestCase {
    private let bundles = [
        ("tiny", "refused"), ("images", "refused_images"), ("targets", "refused_targets"),
        ("picture", "refused_pictures"), ("adapters", "refused_adapters"),
    ]

    private func folder(_ name: String) -> URL {
        Repository.golden.appendingPathComponent("bundle/\(name).ondevice")
    }

    func testGoldenBundlesAreAccepted() throws {
        for (name, _) in bundles { try ModelBundle(at: folder(name)).verify() }
    }

    /// Every change of the golden files is refused, in Python's words (but where these show a dictionary of
    /// Python's, or a number of hundreds of digits).
    func testChangedBundlesAreRefused() throws {
        var otherWords: [String] = []
        for (name, refused) in bundles {
            let files = try MemoryFiles("bundle/\(name).ondevice")
            let original = files.files
            for row in try Repository.json("bundle/\(refused).json").rows {
                files.files = original
                for change in [row] + (row.has("also") ? row["also"].rows : []) {
                    try files.change(
                        row["file"].string, change["path"].rows, change.has("value") ? change["value"] : nil)
                }
                let message = refusal { try ModelBundle(files: files).verify() }
                guard let message else {
                    XCTFail("\(refused): taken with \(row.written)")
                    continue
                }
                let words = row["message"].string.components(separatedBy: "{")[0].components(separatedBy: "1000")[0]
                if !message.contains(words) { otherWords.append("\(message)\n  \(words)") }
            }
        }
        XCTAssertEqual(otherWords, [])
    }

    func testWeightsAndSourcesAreThoseOfTheGoldens() throws {
        for (name, file) in [("tiny", "expected"), ("images", "expected_images")] {
            let bundle = try ModelBundle(at: folder(name))
            let expected = try Repository.json("bundle/\(file).json")
            for (key, values) in expected["weights"].fields {
                let entry = bundle.manifest.weights[key]!
                let bytes = try bundle.weight(key)
                XCTAssertEqual(elements(bytes, entry.dtype), values.flat, key.text)
            }
            for row in expected["plans"].rows {
                let sizes = Dictionary(uniqueKeysWithValues: row["sizes"].fields.map { ($0.key.text, $0.value.int) })
                let plan = try bundle.plan(row["component"].string, sizes)
                for dialect in ["metal", "opencl"] {
                    let sources = expected["sources"][dialect]
                    for kernel in plan.kernels where sources.has(kernel.name) {
                        XCTAssertEqual(
                            Exact(try bundle.source(kernel, dialect: dialect)),
                            Exact(sources[kernel.name].string))
                    }
                }
            }
        }
    }

    private func elements(_ stored: [UInt8], _ dtype: Dtype) -> [Double] {
        stored.withUnsafeBytes { elements($0, dtype) }
    }

    private func elements(_ bytes: UnsafeRawBufferPointer, _ dtype: Dtype) -> [Double] {
        switch dtype {
        case .f32: return bytes.bindMemory(to: Float.self).map(Double.init)
        case .f16: return bytes.bindMemory(to: UInt16.self).map { Double(halfToFloat($0)) }
        case .i32: return bytes.bindMemory(to: Int32.self).map(Double.init)
        case .i8: return bytes.bindMemory(to: Int8.self).map(Double.init)
        case .u4x2: return bytes.map { Double($0) }
        }
    }

    func testADeviceTakesItsTarget() throws {
        let expected = try Repository.json("bundle/expected_targets.json")
        let bundle = try ModelBundle(at: folder("targets"))
        for (name, files) in expected["plans"].fields {
            try bundle.choose(target: name.text)
            XCTAssertEqual(bundle.plans.map(\.file), files.rows.map(\.string))
        }
        for row in expected["devices"].rows {
            let limits = Dictionary(uniqueKeysWithValues: row["limits"].fields.map { ($0.key.text, $0.value.int) })
            let device = DeviceFacts(
                name: row["name"].string, version: row["version"].string,
                needs: row["needs"].rows.map(\.string), limits: limits)
            let message = refusal { try bundle.choose(for: device) }
            if case .text(let target) = row["takes"] {
                XCTAssertNil(message)
                XCTAssertEqual(bundle.target, target)
            } else {
                XCTAssertEqual(message?.contains("runs none of the bundle's plans"), true)
            }
        }
        XCTAssertNotNil(refusal { try bundle.choose(target: "gpu") })
    }

    /// What only a folder can be: without a file, with one that is cut, with a link out of it, with changed bytes.
    func testDamagedFoldersAreRefused() throws {
        let manager = FileManager.default
        let copy = URL(fileURLWithPath: NSTemporaryDirectory()).appendingPathComponent(UUID().uuidString)
        defer { try? manager.removeItem(at: copy) }
        let kernel = copy.appendingPathComponent("kernels/pick.cl")
        let changes: [(String, () throws -> Void)] = [
            ("missing", { try manager.removeItem(at: kernel) }),
            ("is cut or changed", { try Data(contentsOf: kernel).dropLast().write(to: kernel) }),
            ("was changed", { try Data(repeating: 32, count: Data(contentsOf: kernel).count).write(to: kernel) }),
            (
                "is a link out of",
                {
                    try manager.removeItem(at: kernel)
                    let outside = self.folder("tiny").appendingPathComponent("kernels/pick.cl")
                    try manager.createSymbolicLink(at: kernel, withDestinationURL: outside)
                }
            ),
        ]
        for (words, change) in changes {
            try? manager.removeItem(at: copy)
            try manager.copyItem(at: folder("tiny"), to: copy)
            try change()
            let message = refusal { try ModelBundle(at: copy).verify() }
            XCTAssertEqual(message?.contains(words), true, message ?? words)
        }
        XCTAssertEqual(
            refusal { _ = try ModelBundle(at: copy.appendingPathComponent("kernels")) }?
                .contains("no bundle.json in it"), true)
        XCTAssertEqual(
            refusal { _ = try ModelBundle(at: copy.appendingPathComponent("nowhere")) }?
                .contains("is not a bundle (there is no such file or folder)."), true)
    }

    func testBundlesInOneFile() throws {
        let folder = Repository.golden.appendingPathComponent("bundle")
        let plain = try ModelBundle(at: self.folder("tiny"))
        for name in ["tiny.odpack", "tiny_zip64.odpack"] {
            let packed = try ModelBundle(at: folder.appendingPathComponent(name))
            try packed.verify()
            for key in plain.manifest.weights.keys { XCTAssertEqual(try packed.weight(key), try plain.weight(key)) }
        }
        let copies = URL(fileURLWithPath: NSTemporaryDirectory()).appendingPathComponent(UUID().uuidString)
        defer { try? FileManager.default.removeItem(at: copies) }
        try FileManager.default.createDirectory(at: copies, withIntermediateDirectories: true)
        for row in try Repository.json("bundle/refused_packed.json").rows {
            var data = try Data(contentsOf: folder.appendingPathComponent(row["file"].string))
            for change in row["set"].rows {
                let bytes = hexadecimal(change.rows[1].string)
                let at = change.rows[0].int
                data.replaceSubrange(at..<at + bytes.count, with: bytes)
            }
            if row.has("cut") { data = data.prefix(row["cut"].int) }
            if row.has("add") { data += hexadecimal(row["add"].string) }
            let copy = copies.appendingPathComponent(row["file"].string)
            try data.write(to: copy)
            let message = refusal { try ModelBundle(at: copy).verify() }
            // What no `Int` holds is its largest here.
            let words = row["message"].string.replacingOccurrences(of: "184467", with: "922337")
            XCTAssertEqual(message?.hasPrefix(words), true, "\(row["what"].string): \(message ?? "taken")")
        }
    }

    func testPipelinesByHand() throws {
        func pipeline(_ value: JSON, _ other: JSON) throws {
            let check = Checker(file: Manifest.file)
            var reader = PipelineReader(
                check: check, components: names(other["components"]),
                tokenizers: names(other["tokenizers"]),
                samplers: other["samplers"].rows.map(\.string))
            _ = try reader.read(value)
        }
        func names(_ value: JSON) -> Set<String> {
            if case .list(let items) = value { return Set(items.map(\.string)) }
            return Set(value.fields.map(\.key.text))
        }
        for name in try Repository.names("pipeline") {
            let value = try Repository.json("pipeline/\(name).json")
            try pipeline(value["pipeline"], value)
        }
        let base = try Repository.json("pipeline/sdxl_refiner.json")
        for row in try Repository.json("pipeline/refused.json").rows {
            var changed = base["pipeline"]
            for change in [row] + (row.has("also") ? row["also"].rows : []) {
                changed = changed.changed(at: change["path"].rows, to: change.has("value") ? change["value"] : nil)!
            }
            let message = refusal { try pipeline(changed, base) }?.replacingOccurrences(of: ".0 (", with: " (")
            let words = row["message"].string.replacingOccurrences(of: ".0 (", with: " (")
            XCTAssertEqual(message?.contains(words), true, "\(message ?? "taken") for \(row.written)")
        }
    }

    func testJSONIsStrict() {
        let depth = String(repeating: "[", count: 33) + String(repeating: "]", count: 33)
        let wrong = [
            "", "{", "[1,]", "{\"a\":1,}", "{\"a\" 1}", "01", "1.", ".5", "1e", "+1", "NaN", "Infinity", "-Infinity",
            "1e400", "\"\n\"", "\"\\x\"", "\"\\ud800\"", "\"\\ud800\\u0041\"", "\"\\udc00\"", "{\"a\":1,\"a\":2}",
            "1 2", "\u{FEFF}1", "tru", "'a'", depth, "\"\\u00g0\"", "\"", "\"\\",
        ]
        for text in wrong {
            XCTAssertNotNil(refusal { _ = try JSON(parsing: Data(text.utf8), at: "x") }, text)
        }
        for bytes: [UInt8] in [[0x22, 0xFF, 0x22], [0x22, 0xC0, 0x80, 0x22], [0x22, 0xED, 0xA0, 0x80, 0x22]] {
            XCTAssertNotNil(refusal { _ = try JSON(parsing: bytes, at: "x") })
        }
        let right = [
            "1": "1", " [ 1 , -0.5e1, \"\\ud83d\\ude00\\u0000\\/\" ] ": "[1,-5.0,\"\u{1F600}\\u0000/\"]",
            "{\"\u{E9}\":1,\"e\u{301}\":true}": "{\"\u{E9}\":1,\"e\u{301}\":true}",
            "123456789012345678901": "1.2345678901234568e+20",
        ]
        for (text, written) in right {
            XCTAssertEqual(Exact(try JSON(parsing: Data(text.utf8), at: "x").written), Exact(written))
        }
    }
}
