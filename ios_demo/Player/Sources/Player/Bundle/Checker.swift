/// What to do about a bundle that is not as it was written.
let damaged = "copy the bundle again, or write it again with `ondevice convert`"

/// Limits of docs/bundle.md.
enum Limit {
    static let textBytes = 4 << 20  // a kernel or a prelude
    static let files = 16_384
    static let plans = 1_024
    static let weights = 65_536
    static let operands = 65_536
    static let dispatches = 65_536
    static let kernels = 4_096
    static let arguments = 64
    static let rules = 256
    static let reasons = 64
    static let rank = 8
    static let needs = 16
    static let targets = 64
    static let size = 65_536
    static let bytes = 1 << 40
    static let count = 1 << 53
    static let group = 1_024
    static let items = 1 << 31
    static let int32 = Int(Int32.min)...Int(Int32.max)
    static let float32 = Double(Float.greatestFiniteMagnitude)
    static let align = 512
}

/// A place inside a JSON file. It is turned into text only where a check fails.
indirect enum Place {
    case top
    case field(Place, String)
    case index(Place, Int)
    case key(Place, String)

    subscript(name: String) -> Place { .field(self, name) }
    subscript(number: Int) -> Place { .index(self, number) }
    func key(_ name: some CustomStringConvertible) -> Place { .key(self, "\(name)") }

    var text: String {
        switch self {
        case .top: return ""
        case .field(.top, let name): return name
        case .field(let before, let name): return "\(before.text).\(name)"
        case .index(let before, let number): return "\(before.text)[\(number)]"
        case .key(let before, let name): return "\(before.text)[\(JSON.quoted(name))]"
        }
    }
}

/// Checks one JSON file. Each method gives the value back, or throws a `PlayerError` that names its place.
struct Checker {
    let file: String

    func fault(_ what: String, _ at: Place = .top) -> PlayerError {
        let place = at.text
        return PlayerError(.bundle, (place.isEmpty ? "" : place + " ") + what + ".", at: file, fix: damaged)
    }

    func object(_ value: JSON, _ at: Place) throws -> JSONObject {
        guard case .object(let object) = value else { throw fault("is \(value.shown) (expected an object)", at) }
        return object
    }

    /// A field that must be there.
    func field(_ object: JSONObject, _ name: String, _ at: Place) throws -> JSON {
        guard let value = object[Exact(name)] else { throw fault("is missing", at[name]) }
        return value
    }

    func table(_ value: JSON, _ most: Int, _ at: Place) throws -> JSONObject {
        guard case .object(let object) = value, object.keys.count <= most else {
            throw fault("is \(value.shown) (expected an object of at most \(most))", at)
        }
        return object
    }

    func list(_ value: JSON, _ count: ClosedRange<Int>, _ at: Place) throws -> [JSON] {
        guard case .list(let items) = value, count.contains(items.count) else {
            let expected =
                count.lowerBound == count.upperBound
                ? "\(count.lowerBound)" : "\(count.lowerBound)..\(count.upperBound)"
            throw fault("is \(value.shown) (expected a list of \(expected))", at)
        }
        return items
    }

    func integer(_ value: JSON, _ low: Int, _ high: Int, _ at: Place) throws -> Int {
        guard case .integer(let number) = value, low <= number, number <= high else {
            throw fault("is \(value.shown) (expected \(low)..\(high))", at)
        }
        return number
    }

    func integers(_ value: JSON, _ low: Int, _ high: Int, _ count: ClosedRange<Int>, _ at: Place) throws -> [Int] {
        try list(value, count, at).enumerated().map { try integer($1, low, high, at[$0]) }
    }

    /// A number within float32.
    func number(_ value: JSON, _ at: Place) throws -> Double {
        switch value {
        case .integer(let number): return Double(number)
        case .real(let number) where abs(number) <= Limit.float32: return number
        default: throw fault("is \(value.shown) (expected a number within float32)", at)
        }
    }

    func flag(_ object: JSONObject, _ name: String, _ at: Place) throws -> Bool {
        guard let value = object[Exact(name)] else { return false }
        return try bool(value, at[name])
    }

    func bool(_ value: JSON, _ at: Place) throws -> Bool {
        guard case .bool(let flag) = value else { throw fault("is \(value.shown) (expected true or false)", at) }
        return flag
    }

    /// A name for people: 1 to 512 printable characters.
    func text(_ value: JSON, _ at: Place) throws -> String {
        guard case .text(let text) = value, (1...512).contains(text.unicodeScalars.count),
            text.unicodeScalars.allSatisfy(\.isPrintable)
        else { throw fault("is \(value.shown) (expected 1..512 printable characters)", at) }
        return text
    }

    func name(_ value: JSON, _ at: Place) throws -> String {
        guard case .text(let text) = value, isName(text) else {
            throw fault("is \(value.shown) (expected a file name of letters, digits and ._+-)", at)
        }
        return text
    }

    func identifier(_ value: JSON, _ at: Place) throws -> String {
        guard case .text(let text) = value, isIdentifier(text) else {
            throw fault("is \(value.shown) (expected an identifier)", at)
        }
        return text
    }

    /// One of some names, all of which are ASCII.
    func oneOf(_ value: JSON, _ known: some Collection<String>, _ at: Place) throws -> String {
        guard case .text(let text) = value, text.isASCII, known.contains(text) else {
            let listed = known.sorted().prefix(8).joined(separator: ", ") + (known.count > 8 ? ", ..." : "")
            throw fault("is \(value.shown) (expected \(known.isEmpty ? "nothing here" : "one of: " + listed))", at)
        }
        return text
    }

    /// Names that differ by case only are one file on some phones and desktops.
    func distinct(_ names: some Sequence<String>, _ at: Place) throws {
        var seen: Set<String> = []
        for name in names where !seen.insert(name.lowercased()).inserted {
            throw fault("names \(JSON.quoted(name)) twice", at)
        }
    }

    func dtype(_ value: JSON, _ at: Place) throws -> Dtype {
        Dtype(rawValue: try oneOf(value, Dtype.allCases.map(\.rawValue), at))!
    }

    func shape(_ value: JSON, _ dtype: Dtype, _ at: Place) throws -> [Int] {
        let shape = try integers(value, 1, Int(Int32.max), 0...Limit.rank, at)
        guard byteCount(shape, dtype) <= Limit.bytes else {
            throw fault("is \(shape) (expected at most \(Limit.bytes) bytes)", at)
        }
        return shape
    }

    /// Words of later minor versions, all of which a reader must know.
    func needs(_ value: JSON, known: [String], _ at: Place) throws -> [String] {
        let words = try list(value, 0...Limit.needs, at).enumerated().map { try identifier($1, at[$0]) }
        for (i, word) in words.enumerated() where !known.contains(word) {
            throw fault(
                "asks for \(JSON.quoted(word)), which this version does not know; install a newer ondevice",
                at[i])
        }
        return words
    }

    func sizes(_ value: JSON, _ at: Place) throws -> Sizes {
        var sizes: Sizes = [:]
        for (key, item) in try table(value, Limit.rank, at).rows {
            sizes[try identifier(.text(key.text), at)] = try integer(item, 1, Limit.size, at.key(key))
        }
        return sizes
    }
}

private func isLetter(_ byte: UInt8) -> Bool {
    (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte) || byte == UInt8(ascii: "_")
}

private func isDigit(_ byte: UInt8) -> Bool { (0x30...0x39).contains(byte) }

func isIdentifier(_ text: String) -> Bool {
    guard let first = text.utf8.first, text.utf8.count <= 64 else { return false }
    return isLetter(first) && text.utf8.allSatisfy { isLetter($0) || isDigit($0) }
}

/// A part of a path: no slash and no leading point, so no "..".
func isName(_ text: String) -> Bool {
    guard let first = text.utf8.first, text.utf8.count <= 128, isLetter(first) || isDigit(first) else { return false }
    return text.utf8.allSatisfy { isLetter($0) || isDigit($0) || "._+-".utf8.contains($0) }
}
