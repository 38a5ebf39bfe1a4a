import Foundation

/// A value of strict JSON, as docs/bundle.md says it. A whole number that is too large for `Int`
/// is `real`, and beyond a double infinite: no check lets that pass.
public enum JSON: Sendable {
    case null
    case bool(Bool)
    case integer(Int)
    case real(Double)
    case text(String)
    case list([JSON])
    case object(JSONObject)

    public static let mostBytes = 64 << 20
    static let mostValues = 2_000_000
    static let mostLevels = 32

    /// Parse a file's bytes.
    ///
    /// - Throws: `PlayerError` of the kind `bundle`: not UTF-8, not JSON, a key twice, or too much of it.
    public init(parsing data: some Collection<UInt8>, at file: String) throws {
        func refuse(_ what: String) -> PlayerError { PlayerError(.bundle, what, at: file, fix: damaged) }
        guard data.count <= JSON.mostBytes else {
            throw refuse("is too large (got \(data.count) bytes, expected at most \(JSON.mostBytes)).")
        }
        let bytes = [UInt8](data)
        let marks = bytes.reduce(into: 0) { count, byte in
            if byte == UInt8(ascii: ",") || byte == UInt8(ascii: "[") || byte == UInt8(ascii: "{") { count += 1 }
        }
        guard marks <= JSON.mostValues else {
            throw refuse("holds too many values (expected at most \(JSON.mostValues)).")
        }
        do {
            self = try bytes.withUnsafeBufferPointer { pointer in
                var parser = JSONParser(bytes: pointer)
                return try parser.document()
            }
        } catch let fault as JSONFault {
            switch fault {
            case .depth: throw refuse("is nested too deeply (expected at most \(JSON.mostLevels) levels).")
            case .text(let why): throw refuse("is not valid JSON (\(why)).")
            }
        }
    }

    /// A value for an error message: its JSON, cut short.
    var shown: String {
        switch self {
        case .null: return "null"
        case .bool(let value): return value ? "true" : "false"
        case .integer(let value): return String(value)
        case .real(let value): return "\(value)"
        case .list(let items): return "a list of \(items.count)"
        case .object(let object): return "an object of \(object.keys.count)"
        case .text(let text): return JSON.quoted(text)
        }
    }

    /// A text as JSON in ASCII, at most 80 letters of it.
    static func quoted(_ text: String) -> String {
        var result = "\""
        for unit in text.utf16 {
            switch unit {
            case 0x22: result += "\\\""
            case 0x5C: result += "\\\\"
            case 0x0A: result += "\\n"
            case 0x0D: result += "\\r"
            case 0x09: result += "\\t"
            case 0x20..<0x7F: result.unicodeScalars.append(Unicode.Scalar(UInt8(unit)))
            default: result += String(format: "\\u%04x", unit)
            }
            if result.utf8.count > 90 { break }
        }
        result += "\""
        return result.utf8.count <= 80 ? result : result.prefix(77) + "..."
    }
}

/// An object of JSON, its keys in the order of the text.
public struct JSONObject: Sendable {
    public private(set) var keys: [Exact] = []
    private var values: [Exact: JSON] = [:]

    /// Whether the key is new.
    mutating func add(_ key: Exact, _ value: JSON) -> Bool {
        guard values.updateValue(value, forKey: key) == nil else { return false }
        keys.append(key)
        return true
    }

    public subscript(key: Exact) -> JSON? { values[key] }

    /// Key and value, in order.
    var rows: [(key: Exact, value: JSON)] { keys.map { ($0, values[$0] ?? .null) } }
}

private enum JSONFault: Error {
    case depth
    case text(String)
}

private struct JSONParser {
    let bytes: UnsafeBufferPointer<UInt8>
    var at = 0
    var level = 0

    mutating func document() throws -> JSON {
        let value = try value()
        space()
        guard at == bytes.count else { throw fault("something follows the value") }
        return value
    }

    private func fault(_ what: String) -> JSONFault { .text("\(what) at byte \(at)") }

    private mutating func space() {
        while at < bytes.count, [0x20, 0x09, 0x0A, 0x0D].contains(bytes[at]) { at += 1 }
    }

    private mutating func take(_ byte: Character) -> Bool {
        guard at < bytes.count, bytes[at] == byte.asciiValue else { return false }
        at += 1
        return true
    }

    private mutating func word(_ text: StaticString, _ value: JSON) throws -> JSON {
        let length = text.utf8CodeUnitCount
        guard bytes.count - at >= length, memcmp(bytes.baseAddress! + at, text.utf8Start, length) == 0 else {
            throw fault("no value")
        }
        at += length
        return value
    }

    private mutating func value() throws -> JSON {
        space()
        guard at < bytes.count else { throw fault("it ends early") }
        switch bytes[at] {
        case UInt8(ascii: "{"): return try nested { try $0.object() }
        case UInt8(ascii: "["): return try nested { try $0.list() }
        case UInt8(ascii: "\""): return .text(try text())
        case UInt8(ascii: "t"): return try word("true", .bool(true))
        case UInt8(ascii: "f"): return try word("false", .bool(false))
        case UInt8(ascii: "n"): return try word("null", .null)
        default: return try number()
        }
    }

    private mutating func nested(_ read: (inout JSONParser) throws -> JSON) throws -> JSON {
        at += 1
        level += 1
        guard level <= JSON.mostLevels else { throw JSONFault.depth }
        let value = try read(&self)
        level -= 1
        return value
    }

    private mutating func list() throws -> JSON {
        var items: [JSON] = []
        space()
        if take("]") { return .list(items) }
        while true {
            items.append(try value())
            space()
            if take("]") { return .list(items) }
            guard take(",") else { throw fault("a comma is missing") }
        }
    }

    private mutating func object() throws -> JSON {
        var object = JSONObject()
        space()
        if take("}") { return .object(object) }
        while true {
            space()
            guard at < bytes.count, bytes[at] == UInt8(ascii: "\"") else { throw fault("a key is missing") }
            let key = Exact(try text())
            space()
            guard take(":") else { throw fault("a colon is missing") }
            guard object.add(key, try value()) else {
                throw JSONFault.text("the key \(JSON.quoted(key.text)) is there twice")
            }
            space()
            if take("}") { return .object(object) }
            guard take(",") else { throw fault("a comma is missing") }
        }
    }

    private mutating func digits() -> Int {
        let start = at
        while at < bytes.count, (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(bytes[at]) { at += 1 }
        return at - start
    }

    private mutating func number() throws -> JSON {
        let start = at
        _ = take("-")
        let first = at
        let whole = digits()
        guard whole > 0, whole == 1 || bytes[first] != UInt8(ascii: "0") else { throw fault("no value") }
        var isWhole = true
        if take(".") {
            isWhole = false
            guard digits() > 0 else { throw fault("a digit is missing") }
        }
        if take("e") || take("E") {
            isWhole = false
            if !take("+") { _ = take("-") }
            guard digits() > 0 else { throw fault("a digit is missing") }
        }
        let text = String(decoding: bytes[start..<at], as: UTF8.self)
        if isWhole, let value = Int(text) { return .integer(value) }
        guard let value = Double(text), value.isFinite || isWhole else {
            throw fault("the number \(text.prefix(40)) is too large")
        }
        return .real(value)
    }

    private mutating func text() throws -> String {
        at += 1
        var found: [UInt8] = []
        while true {
            guard at < bytes.count else { throw fault("a text does not end") }
            let byte = bytes[at]
            at += 1
            switch byte {
            case UInt8(ascii: "\""):
                guard let text = String(validUTF8: found) else { throw fault("a text is not UTF-8") }
                return text
            case UInt8(ascii: "\\"): try escape(&found)
            case 0..<0x20: throw fault("a control character is in a text")
            default: found.append(byte)
            }
        }
    }

    private mutating func escape(_ found: inout [UInt8]) throws {
        guard at < bytes.count else { throw fault("a text does not end") }
        let byte = bytes[at]
        at += 1
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): found.append(byte)
        case UInt8(ascii: "b"): found.append(0x08)
        case UInt8(ascii: "f"): found.append(0x0C)
        case UInt8(ascii: "n"): found.append(0x0A)
        case UInt8(ascii: "r"): found.append(0x0D)
        case UInt8(ascii: "t"): found.append(0x09)
        case UInt8(ascii: "u"):
            var value = try unit()
            if (0xD800..<0xDC00).contains(value), take("\\"), take("u") {
                let second = try unit()
                guard (0xDC00..<0xE000).contains(second) else { throw fault("half of a surrogate pair") }
                value = 0x10000 + (value - 0xD800) << 10 + (second - 0xDC00)
            }
            guard let scalar = Unicode.Scalar(value) else { throw fault("half of a surrogate pair") }
            found.append(contentsOf: Array(String(scalar).utf8))
        default: throw fault("an escape that is none")
        }
    }

    private mutating func unit() throws -> UInt32 {
        guard bytes.count - at >= 4 else { throw fault("a text does not end") }
        var value: UInt32 = 0
        for _ in 0..<4 {
            guard let digit = Character(Unicode.Scalar(bytes[at])).hexDigitValue, bytes[at] < 0x80 else {
                throw fault("an escape that is none")
            }
            value = value << 4 | UInt32(digit)
            at += 1
        }
        return value
    }
}

extension String {
    /// The text of UTF-8, or nil where the bytes are none: nothing is repaired.
    init?(validUTF8 bytes: [UInt8]) {
        if bytes.contains(where: { $0 >= 0x80 }) {
            var decoder = UTF8()
            var iterator = bytes.makeIterator()
            decoding: while true {
                switch decoder.decode(&iterator) {
                case .scalarValue: continue
                case .emptyInput: break decoding
                case .error: return nil
                }
            }
        }
        self.init(decoding: bytes, as: UTF8.self)
    }
}

/// A number as printf's %g.
func short(_ value: Double) -> String { String(format: "%g", value) }
