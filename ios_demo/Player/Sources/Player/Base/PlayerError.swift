import Foundation

/// Everything the player throws: where, what is wrong, and what to do next, on one line.
public struct PlayerError: Error, CustomStringConvertible, LocalizedError {
    /// What kind of thing went wrong. The numbers are the exit codes of the Python package and of the C++ player.
    public enum Kind: Int, Sendable {
        case usage = 2
        case bundle = 9
        case noDevice = 10
        case kernelBuild = 11
        case device = 12
        case numeric = 13
        case output = 16
        case cancelled = 130
    }

    public let kind: Kind
    public let place: String
    public let what: String
    public let fix: String

    /// What comes from files is in `place` and `what`, so control characters in them are escaped.
    public init(_ kind: Kind, _ what: String, at place: String = "", fix: String = "") {
        self.kind = kind
        self.place = printable(place)
        self.what = printable(what, lines: kind == .kernelBuild)
        self.fix = fix
    }

    public var description: String {
        (place.isEmpty ? "" : "\(place): ") + what + (fix.isEmpty ? "" : " Fix: \(fix).")
    }

    public var errorDescription: String? { description }
}

/// A text with its control characters escaped, and cut where it is very long.
private func printable(_ text: String, lines: Bool = false) -> String {
    var result = ""
    for scalar in text.unicodeScalars.prefix(4000) {
        let plain = scalar == " " || (lines && scalar == "\n") || scalar.isPrintable
        result += plain ? String(scalar) : String(format: "\\u%04x", scalar.value)
    }
    return result
}

extension Unicode.Scalar {
    /// Whether it shows something by itself: neither a control, nor unassigned, nor a space other than the usual one.
    var isPrintable: Bool {
        switch properties.generalCategory {
        case .control, .format, .surrogate, .privateUse, .unassigned: return false
        case .lineSeparator, .paragraphSeparator, .spaceSeparator: return self == " "
        default: return true
        }
    }
}
