import Foundation
import XCTest

@testable import Player

/// Files of the repository that the tests read.
enum Repository {
    static let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
    static let golden = root.appendingPathComponent("tests/golden")

    static func data(_ path: String) throws -> Data { try Data(contentsOf: golden.appendingPathComponent(path)) }

    static func json(_ path: String) throws -> JSON { try JSON(parsing: try data(path), at: path) }

    /// The names of a folder's JSON files, without ending and sorted; not `refused`.
    static func names(_ folder: String) throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: golden.appendingPathComponent(folder).path)
            .filter { $0.hasSuffix(".json") && $0 != "refused.json" }.map { String($0.dropLast(5)) }.sorted()
    }
}

/// JSON as tests look into it: what is not there, or of another kind, is a fault of the test.
extension JSON {
    subscript(key: String) -> JSON {
        guard case .object(let object) = self, let value = object[Exact(key)] else { fatalError("no \(key)") }
        return value
    }

    func has(_ key: String) -> Bool {
        if case .object(let object) = self { return object[Exact(key)] != nil }
        return false
    }

    var rows: [JSON] {
        if case .list(let items) = self { return items }
        fatalError("no list")
    }

    var fields: [(key: Exact, value: JSON)] {
        if case .object(let object) = self { return object.rows }
        fatalError("no object")
    }

    var string: String {
        if case .text(let text) = self { return text }
        fatalError("no text")
    }

    var double: Double {
        switch self {
        case .integer(let whole): return Double(whole)
        case .real(let real): return real
        default: fatalError("no number")
        }
    }

    var int: Int { Int(double) }
    var floats: [Float] { rows.map { Float($0.double) } }
    var ints: [Int] { rows.map(\.int) }

    /// All numbers of nested lists, in order.
    var flat: [Double] {
        if case .list(let items) = self { return items.flatMap(\.flat) }
        return [double]
    }

    /// The same with the value at `path` set, or deleted where `value` is nil.
    func changed(at path: [JSON], to value: JSON?) -> JSON? {
        guard let step = path.first else { return value }
        let rest = Array(path.dropFirst())
        switch self {
        case .object(let object):
            var result = JSONObject()
            let key = Exact(step.string)
            for (other, old) in object.rows {
                if let new = other == key ? old.changed(at: rest, to: value) : old { _ = result.add(other, new) }
            }
            if object[key] == nil, rest.isEmpty, let value { _ = result.add(key, value) }
            return .object(result)
        case .list(var items):
            if step.int == items.count, let value { return .list(items + [value]) }
            if let new = items[step.int].changed(at: rest, to: value) {
                items[step.int] = new
            } else {
                items.remove(at: step.int)
            }
            return .list(items)
        default: fatalError("no place \(step.shown)")
        }
    }

    var written: String {
        switch self {
        case .list(let items): return "[" + items.map(\.written).joined(separator: ",") + "]"
        case .object(let object):
            return "{"
                + object.rows.map { JSON.text($0.key.text).written + ":" + $0.value.written }
                .joined(separator: ",") + "}"
        case .text(let text):
            let letters = text.unicodeScalars.map { scalar -> String in
                let isPlain = scalar.value >= 0x20 && scalar != "\"" && scalar != "\\"
                return isPlain ? String(scalar) : String(format: "\\u%04x", scalar.value)
            }
            return "\"" + letters.joined() + "\""
        case .real(let value) where value.isInfinite: return "1" + String(repeating: "0", count: 400)
        default: return shown
        }
    }
}

/// A bundle in memory, of which files can be exchanged.
final class MemoryFiles: BundleFiles {
    private final class Holder {
        let bytes: UnsafeMutableRawBufferPointer

        init(_ data: Data) {
            bytes = .allocate(byteCount: data.count, alignment: 16384)
            bytes.copyBytes(from: data)
        }

        deinit { bytes.deallocate() }
    }

    let name = "bundle"
    var files: [String: Data] = [:]

    init(_ folder: String) throws {
        let root = Repository.golden.appendingPathComponent(folder)
        for case let path as String in FileManager.default.enumerator(atPath: root.path)! {
            let url = root.appendingPathComponent(path)
            if try url.resourceValues(forKeys: [.isRegularFileKey]).isRegularFile == true {
                files[path] = try Data(contentsOf: url)
            }
        }
    }

    func map(_ path: String, expected: Int?) throws -> MappedFile {
        try check(path, expected: expected ?? files[path]?.count ?? 0)
        let holder = Holder(files[path]!)
        return MappedFile(owner: holder, bytes: UnsafeRawBufferPointer(holder.bytes))
    }

    func check(_ path: String, expected: Int) throws {
        guard files[path]?.count == expected else { throw PlayerError(.bundle, "is missing.", at: path) }
    }

    /// Change a file at a place; what the manifest says of a plan's file is put right.
    func change(_ file: String, _ path: [JSON], _ value: JSON?) throws {
        let old = try JSON(parsing: files[file]!, at: file)
        files[file] = Data((old.changed(at: path, to: value) ?? .null).written.utf8)
        guard file != Manifest.file else { return }
        let data = files[file]!
        let digest = data.withUnsafeBytes { SHA256.hex(of: $0) }
        try change(Manifest.file, [.text("files"), .text(file), .text("bytes")], .integer(data.count))
        try change(Manifest.file, [.text("files"), .text(file), .text("sha256")], .text(digest))
    }
}

/// Whether `run` throws a `PlayerError`, whose text is given back.
func refusal(of run: () throws -> Void, file: StaticString = #filePath, line: UInt = #line) -> String? {
    do {
        try run()
        return nil
    } catch let error as PlayerError {
        return error.description
    } catch {
        XCTFail("\(error)", file: file, line: line)
        return nil
    }
}

extension Pixels {
    /// One pixel of a grey.
    init(one grey: UInt8) { self.init(width: 1, height: 1, bytes: [grey, grey, grey]) }
}

func hexadecimal(_ text: String) -> [UInt8] {
    let digits = text.compactMap(\.hexDigitValue)
    return stride(from: 0, to: digits.count, by: 2).map { UInt8(digits[$0] << 4 | digits[$0 + 1]) }
}
