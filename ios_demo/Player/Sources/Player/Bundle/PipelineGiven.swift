private let reserved = ["latents", "timestep", "width", "height"]

/// What the user of a pipeline gives: numbers, texts, pictures; and its latents.
extension PipelineReader {
    /// A new identifier.
    func newName(_ value: JSON, _ taken: [String], _ at: Place) throws -> String {
        let name = try check.identifier(value, at)
        guard !reserved.contains(name), !taken.contains(name) else {
            throw check.fault("is \(JSON.quoted(name)), a name that is taken", at)
        }
        return name
    }

    func real(_ value: JSON, _ low: Double, _ high: Double, _ at: Place) throws -> Double {
        switch value {
        case .integer(let number) where low <= Double(number) && Double(number) <= high: return Double(number)
        case .real(let number) where low <= number && number <= high: return number
        default: throw check.fault("is \(value.shown) (expected a number \(short(low))..\(short(high)))", at)
        }
    }

    var plainNumbers: [String] { numbers.filter { $0.entry.ramp == nil }.map(\.name) }
    /// Those that are the same in all calls and frames.
    var steadyNumbers: [String] { numbers.filter { $0.entry.ramp == nil && $0.entry.window == nil }.map(\.name) }

    /// A constant, or the name of a number (not a ramp), `width` or `height`.
    func amount(_ value: JSON, _ at: Place) throws -> Amount {
        guard case .text = value else { return .constant(try real(value, -Limit.float32, Limit.float32, at)) }
        return .number(try check.oneOf(value, plainNumbers + ["width", "height"], at))
    }

    /// Two numbers that were read before.
    func pair(_ value: JSON, _ at: Place) throws -> (String, String) {
        let two = try check.list(value, 2...2, at)
        return (try check.oneOf(two[0], plainNumbers, at[0]), try check.oneOf(two[1], plainNumbers, at[1]))
    }

    mutating func readNumbers(_ value: JSON, _ place: Place) throws {
        for (key, row) in try check.table(value, PipelineLimit.numbers, place).rows {
            let at = place.key(key)
            let name = try newName(.text(key.text), numbers.map(\.name), at)
            let object = try check.object(row, at)
            if let ramp = object["ramp"] {
                let entry = NumberEntry(
                    usual: nil, low: -Limit.float32, high: Limit.float32, window: nil,
                    ramp: try pair(ramp, at["ramp"]))
                numbers.append((name, entry))
                continue
            }
            let low =
                try object["low"].map { try real($0, -Limit.float32, Limit.float32, at["low"]) }
                ?? -Limit.float32
            let high = try object["high"].map { try real($0, low, Limit.float32, at["high"]) } ?? Limit.float32
            let usual = try amount(try check.field(object, "default", at), at["default"])
            if case .constant = usual { _ = try real(object["default"]!, low, high, at["default"]) }
            let window = try object["window"].map { try pair($0, at["window"]) }
            numbers.append((name, NumberEntry(usual: usual, low: low, high: high, window: window, ramp: nil)))
        }
    }

    mutating func readTexts(_ value: JSON, _ place: Place) throws {
        for (key, row) in try check.table(value, PipelineLimit.given, place).rows {
            let at = place.key(key)
            let name = try newName(.text(key.text), numbers.map(\.name), at)
            texts.append((name, try check.flag(try check.table(row, PipelineLimit.given, at), "optional", at)))
        }
    }

    mutating func readPictures(_ value: JSON, _ place: Place) throws {
        let ways = ["fit", "unit", "mask", "masked", "clip_vision", "edges"]
        for (key, row) in try check.table(value, PipelineLimit.given, place).rows {
            let at = place.key(key)
            let name = try newName(.text(key.text), numbers.map(\.name) + texts.map(\.name), at)
            let object = try check.object(row, at)
            let prepare = try check.oneOf(try check.field(object, "prepare", at), ways, at["prepare"])
            let known = pictures.filter { $0.entry.of.isEmpty }.map(\.name)
            let of = try check.list(object["of"] ?? .list([]), 0...2, at["of"]).enumerated().map {
                try check.oneOf($1, known, at["of"][$0])
            }
            guard (prepare == "masked") == (of.count == 2) else {
                let what =
                    "is wrong (expected a picture and its mask for masked, and for other words at most one picture)"
                throw check.fault(what, at["of"])
            }
            let given = try check.flag(object, "optional", at)
            let optional = given || pictures.contains { of.contains($0.name) && $0.entry.optional }
            pictures.append((name, GivenEntry(prepare: prepare, optional: optional, of: of)))
        }
    }

    func readLatents(_ value: JSON, _ at: Place) throws -> LatentsEntry {
        let object = try check.object(value, at)
        for key in ["channels", "scale", "scaling", "shift"] { _ = try check.field(object, key, at) }
        func optional(_ key: Exact) -> JSON? {
            if case .null? = object[key] { return nil }
            return object[key]
        }
        let begin = try optional("begin").map { try perPicture($0, at["begin"]) }
        let strength = optional("strength")
        guard (begin == nil) == (strength == nil) else {
            throw check.fault(
                "is there alone (expected begin and strength, or neither)",
                at[begin == nil ? "strength" : "begin"])
        }
        guard object["rounds"] == nil || strength != nil else {
            throw check.fault("is there alone (expected begin and strength beside it)", at["rounds"])
        }
        let rounds = try object["rounds"].map { try check.oneOf($0, ["down", "up"], at["rounds"]) }
        let names = steadyNumbers
        let channels = try check.integer(object["channels"]!, 1, 64, at["channels"])
        return LatentsEntry(
            channels: channels,
            scale: try check.integer(object["scale"]!, 1, 64, at["scale"]),
            scaling: Float(try real(object["scaling"]!, 1e-9, 1e9, at["scaling"])),
            shift: Float(try real(object["shift"]!, -1e9, 1e9, at["shift"])),
            frames: try optional("frames").map { try check.oneOf($0, names, at["frames"]) },
            begin: begin,
            strength: try strength.map { try check.oneOf($0, names, at["strength"]) },
            roundsUp: rounds == "up",
            mask: try object["mask"].map { try mask($0, begins: begin != nil, at["mask"]) },
            preview: try object["preview"].map { try preview($0, channels, at["preview"]) } ?? [])
    }

    /// Where a part of a picture is drawn anew.
    func mask(_ value: JSON, begins: Bool, _ at: Place) throws -> (picture: String, strength: Double) {
        let object = try check.object(value, at)
        for key in ["picture", "strength"] { _ = try check.field(object, key, at) }
        guard begins else { throw check.fault("is there alone (expected begin and strength beside it)", at) }
        let name = try prepared(object["picture"]!, "mask", at["picture"])
        return (name, try real(object["strength"]!, 0, 1, at["strength"]))
    }

    /// Whose pixels the result has outside of which mask.
    func readOutside(_ value: JSON, _ gives: String, _ at: Place) throws -> (picture: String, mask: String) {
        let object = try check.object(value, at)
        for key in ["picture", "mask"] { _ = try check.field(object, key, at) }
        guard gives == "picture" else {
            throw check.fault("is there, and frames are given (expected a picture)", at)
        }
        return (
            try prepared(object["picture"]!, "fit", at["picture"]), try prepared(object["mask"]!, "mask", at["mask"])
        )
    }

    private func prepared(_ value: JSON, _ how: String, _ at: Place) throws -> String {
        try check.oneOf(value, pictures.filter { $0.entry.prepare == how }.map(\.name), at)
    }

    /// Red, green and blue of the latents' channels and one.
    func preview(_ value: JSON, _ channels: Int, _ at: Place) throws -> [[Double]] {
        try check.list(value, 3...3, at).enumerated().map { i, row in
            try check.list(row, channels + 1...channels + 1, at[i]).enumerated().map {
                try real($1, -1e9, 1e9, at[i][$0])
            }
        }
    }

    /// A value that is made once per picture.
    func perPicture(_ value: JSON, _ at: Place) throws -> String {
        guard case .text(let name) = value, name.isASCII, rates[name] == .picture else {
            throw check.fault("is \(value.shown) (expected a value that is made once per picture)", at)
        }
        return name
    }
}
