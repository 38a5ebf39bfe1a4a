/// How often a value may change, from never to always.
enum Rate: Int, Comparable, CaseIterable, Sendable {
    case bundle, picture, text, call

    static func < (left: Rate, right: Rate) -> Bool { left.rawValue < right.rawValue }
}

/// A constant, or the name of a number, `width` or `height`.
enum Amount: Sendable {
    case constant(Double)
    case number(String)
}

/// A number that the user may give.
public struct NumberEntry: Sendable {
    let usual: Amount?
    public let low: Double
    public let high: Double
    /// Two numbers, parts of the schedule: in calls outside of them the number is 0.
    let window: (String, String)?
    /// Two numbers instead of all else: one value per frame, evenly from the first to the second.
    let ramp: (String, String)?
}

/// A picture that the user gives, and how it is prepared.
public struct GivenEntry: Sendable {
    public let prepare: String
    public let optional: Bool
    let of: [String]
}

/// f32 [frames, channels, height / scale, width / scale].
public struct LatentsEntry: Sendable {
    public let channels: Int
    public let scale: Int
    let scaling: Float
    let shift: Float
    let frames: String?
    /// The value that a run begins from where it was made, and the number that says how much is then run.
    let begin: String?
    let strength: String?
    /// Whether a part of a call that is to be run is a call.
    let roundsUp: Bool
    /// Where a part of a picture is drawn anew: its mask, and what `strength` is then by default.
    let mask: (picture: String, strength: Double)?
    /// Red, green and blue of a small picture of them: a factor per channel, and a constant. Empty: not known.
    let preview: [[Double]]
}

/// Where a port's numbers come from (docs/pipeline.md, "Before").
enum Feed: Sendable {
    case value(String, zerosIfAbsent: Bool)
    case tokens(String, zerosIfAbsent: Bool)
    case picture(String, noise: Amount?)
    case numbers([PortNumber])

    /// One of a list of numbers: the same for all texts, or one for each.
    enum PortNumber: Sendable {
        case same(Amount)
        case perText([String: Amount])
    }
}

/// A run of a component. Ports keep the order of the text.
struct Role: Sendable {
    let component: String
    let every: Rate
    let inChunks: Bool
    let feed: [(port: Exact, feed: Feed)]
    let keep: [(port: Exact, value: String)]

    /// The tokenizer that its texts are cut by; nil where it reads none.
    var tokenizer: String? {
        for (_, feed) in feed {
            if case .tokens(let name, _) = feed { return name }
        }
        return nil
    }
}

/// A step of `before`.
struct Step: Sendable {
    enum Work: Sendable {
        case run(Role)
        /// Latents of an encoder's moments: a draw of them or the mean, scaled or not.
        case sample(moments: String, draw: Bool, scaled: Bool, keep: String)
        case noise
    }

    let work: Work
    /// It is only done where this number is below that value.
    let below: (number: String, limit: Double)?

    func isDone(_ numbers: [String: Double]) -> Bool { below.map { (numbers[$0.number] ?? 0) < $0.limit } ?? true }
}

struct Pass: Sendable {
    let text: String?
    let zeros: [String]
}

/// A stretch of the schedule.
struct Loop: Sendable {
    struct Term: Sendable {
        let number: String
        let plus: Int
        let minus: Int
    }
    struct Guided: Sendable {
        let number: String
        let above: Double
        let alone: Int
    }

    let from: Amount
    let until: Amount
    let roles: [Role]
    let prediction: String
    let passes: [Pass]
    let first: Int
    let add: [Term]
    let guided: Guided?
    let rescale: String?
}

/// A picture as data: how plans, tokenizers and tables are joined (docs/pipeline.md). Checked.
public struct PipelineSpec: Sendable {
    /// `picture` or `frames`: what the last role keeps.
    public let gives: String
    public let numbers: [(name: String, entry: NumberEntry)]
    /// Whether each text may be left out.
    public let texts: [(name: String, optional: Bool)]
    public let pictures: [(name: String, entry: GivenEntry)]
    public let latents: LatentsEntry
    /// Where the mask is not, the pixels of what is drawn are the picture's own.
    let outside: (picture: String, mask: String)?
    /// What is drawn with where the user says nothing.
    public let sampler: String
    public let steps: Int
    let before: [Step]
    let denoise: [Loop]
    let after: [Role]
    /// What may run in the place of `after`, sooner done and not as exact; empty where there is no such.
    let fast: [Role]
    let rates: [String: Rate]

    /// Every run, in order.
    var roles: [Role] {
        before.compactMap { if case .run(let role) = $0.work { return role } else { return nil } }
            + denoise.flatMap(\.roles) + after + fast
    }

    /// The run that makes what the pipeline gives; its component may be there in bands.
    var decoder: Role { after[after.count - 1] }

    func number(_ name: String) -> NumberEntry? { numbers.first { $0.name == name }?.entry }
    func picture(_ name: String) -> GivenEntry? { pictures.first { $0.name == name }?.entry }
}
