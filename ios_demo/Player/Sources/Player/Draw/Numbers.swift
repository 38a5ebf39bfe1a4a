/// The numbers of one picture: as given, or by default; what they are in a call, and in a frame.
struct Numbers {
    private let entries: [(name: String, entry: NumberEntry)]
    private let chosen: [String: Double]
    private var now: [String: Double]
    /// How many frames there are.
    let frames: Int
    private static let mostFrames = 1 << 16

    init(_ entries: [(name: String, entry: NumberEntry)], chosen: [String: Double], frames: Int = 1) {
        self.entries = entries
        self.chosen = chosen
        now = chosen
        self.frames = frames
    }

    /// - Parameter isMasked: a part of a picture is drawn anew, which has a strength of its own by default.
    /// - Throws: `PlayerError` of the kind `usage`: there is no such number, or it is out of range.
    init(_ spec: PipelineSpec, _ given: [String: Double], width: Int, height: Int, isMasked: Bool) throws {
        let single = spec.numbers.filter { $0.entry.ramp == nil }
        for name in given.keys where !single.contains(where: { $0.name == name }) {
            let have = single.isEmpty ? "none" : single.map(\.name).joined(separator: ", ")
            throw PlayerError(.usage, "this model has no such number (it has \(have)).", at: name, fix: "leave it out")
        }
        var found = ["width": Double(width), "height": Double(height)]
        for (name, entry) in single {
            var value = given[name]
            if value == nil, let usual = entry.usual {
                switch usual {
                case .constant(let constant): value = constant
                case .number(let other): value = found[other]
                }
                if isMasked, name == spec.latents.strength { value = spec.latents.mask?.strength }
            }
            guard let value, value.isFinite, entry.low <= value, value <= entry.high else {
                let what = "out of range (got \(value ?? 0), expected \(short(entry.low)) to \(short(entry.high)))."
                throw PlayerError(.usage, what, at: name, fix: "choose another")
            }
            found[name] = value
        }
        var frames = 1
        if let name = spec.latents.frames {
            let value = found[name]!
            guard (1...Double(Numbers.mostFrames)).contains(value), value == value.rounded() else {
                throw PlayerError(
                    .usage, "not a number of frames (got \(value), expected a whole one).", at: name, fix: "use 14")
            }
            frames = Int(value)
        }
        self.init(spec.numbers, chosen: found, frames: frames)
    }

    subscript(name: String) -> Double { now[name] ?? 0 }

    func of(_ amount: Amount) -> Double {
        switch amount {
        case .constant(let value): return value
        case .number(let name): return self[name]
        }
    }

    /// A number that has a window is 0 in calls outside of it.
    mutating func enter(call: Int, of calls: Int) {
        for (name, entry) in entries {
            guard let (first, last) = entry.window else { continue }
            let isInside =
                Double(call) / Double(calls) >= chosen[first]! && Double(call + 1) / Double(calls) <= chosen[last]!
            now[name] = isInside ? chosen[name]! : 0
        }
    }

    /// The loop is over.
    mutating func leave() { now = chosen }

    func hasWindow(_ name: String) -> Bool { entry(name)?.window != nil }

    /// What a number is in a frame: of a ramp, a step from the first to the last.
    func inFrame(_ name: String, _ frame: Int) -> Float {
        guard let (first, last) = entry(name)?.ramp else { return Float(self[name]) }
        let step = frames > 1 ? (self[last] - self[first]) / Double(frames - 1) : 0
        return Float(self[first] + Double(frame) * step)
    }

    /// Of a ramp, what it is where it is the largest.
    func largest(_ name: String) -> Double {
        guard entry(name)?.ramp != nil else { return self[name] }
        return Double(max(inFrame(name, 0), inFrame(name, frames - 1)))
    }

    private func entry(_ name: String) -> NumberEntry? { entries.first { $0.name == name }?.entry }
}
