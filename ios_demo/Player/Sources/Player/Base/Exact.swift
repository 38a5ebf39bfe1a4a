/// A text that equals another only where every byte does. Swift's own `String` takes two spellings of é for equal, and
/// the sign of Kelvin for a K; in a bundle these are different names.
public struct Exact: Hashable, Comparable, ExpressibleByStringLiteral, CustomStringConvertible, Sendable {
    public let text: String

    public init(_ text: String) { self.text = text }
    public init(stringLiteral text: String) { self.text = text }

    public var description: String { text }

    public static func == (left: Exact, right: Exact) -> Bool { left.text.utf8.elementsEqual(right.text.utf8) }

    public static func < (left: Exact, right: Exact) -> Bool {
        left.text.utf8.lexicographicallyPrecedes(right.text.utf8)
    }

    public func hash(into hasher: inout Hasher) {
        var text = self.text
        text.withUTF8 { hasher.combine(bytes: UnsafeRawBufferPointer($0)) }
    }
}

extension String {
    /// Whether all of it is ASCII, so that `==` compares bytes.
    var isASCII: Bool { utf8.allSatisfy { $0 < 0x80 } }
}
