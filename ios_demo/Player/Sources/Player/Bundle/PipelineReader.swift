enum PipelineLimit {
    static let roles = 64, passes = 16, values = 256, numbers = 64, given = 16, loops = 8, ports = 64, steps = 1_000
}

/// Reads the `pipeline` of a manifest. Every check of docs/pipeline.md's last section is one of here.
struct PipelineReader {
    let check: Checker
    let components: Set<String>
    let tokenizers: Set<String>
    let samplers: [String]

    // What was read so far.
    var numbers: [(name: String, entry: NumberEntry)] = []
    var texts: [(name: String, optional: Bool)] = []
    var pictures: [(name: String, entry: GivenEntry)] = []
    var rates: [String: Rate] = [:]
    private var madeInCalls: Set<String> = []
    private var optional: Set<String> = []  // values that are not made where a picture is not given
    private var hidden: Set<String> = []  // values that may not be read here, nor be another's

    init(check: Checker, components: Set<String>, tokenizers: Set<String>, samplers: [String]) {
        self.check = check
        self.components = components
        self.tokenizers = tokenizers
        self.samplers = samplers
    }

    /// - Throws: `PlayerError` of the kind `bundle`: the first thing that is wrong, with its place.
    mutating func read(_ value: JSON) throws -> PipelineSpec {
        let at = Place.top["pipeline"]
        let top = try check.object(value, at)
        for key in ["gives", "numbers", "texts", "pictures", "latents", "sampler", "before", "denoise", "after"] {
            _ = try check.field(top, key, at)
        }
        func part(_ key: Exact) -> JSON { top[key] ?? .null }

        _ = try check.needs(top["needs"] ?? .list([]), known: [], at["needs"])
        let gives = try check.oneOf(part("gives"), ["picture", "frames"], at["gives"])
        try readNumbers(part("numbers"), at["numbers"])
        try readTexts(part("texts"), at["texts"])
        try readPictures(part("pictures"), at["pictures"])
        let (sampler, steps) = try readSampler(part("sampler"), at["sampler"])
        let before = try check.list(part("before"), 0...PipelineLimit.roles, at["before"]).enumerated().map {
            try step($1, at["before"][$0])
        }
        let drawsNoise = before.filter { if case .noise = $0.work { return true } else { return false } }
        guard drawsNoise.count <= 1 else { throw check.fault("draws the initial noise twice", at["before"]) }
        let latents = try readLatents(part("latents"), at["latents"])
        rates["latents"] = .call
        rates["timestep"] = .call
        let loops = try check.list(part("denoise"), 1...PipelineLimit.loops, at["denoise"]).enumerated().map {
            try loop($1, at["denoise"][$0])
        }
        rates = rates.filter { $0.value != .call }
        rates["latents"] = .picture
        let (known, missing) = (rates, optional)
        let after = try last(part("after"), gives, at["after"])
        guard (latents.frames != nil) == (gives == "frames") else {
            let number = try check.object(part("latents"), at["latents"])["frames"]?.shown ?? "null"
            let what = "is \(gives), and latents.frames is \(number) (expected frames and their number, or neither)"
            throw check.fault(what, at["gives"])
        }
        try always(gives, at["after"])
        var fast: [Role] = []
        if let value = top["fast"] {
            // It reads nothing that `after` keeps, and keeps what the pipeline gives once more.
            hidden = Set(rates.keys).subtracting(known.keys).subtracting([gives])
            let ofAfter = rates
            (rates, optional) = (known, missing)
            fast = try last(value, gives, at["fast"])
            try always(gives, at["fast"])
            rates.merge(ofAfter) { own, _ in own }
        }
        let outside = try top["outside"].map { try readOutside($0, gives, at["outside"]) }
        for name in madeInCalls.union(["latents", "timestep"]) { rates[name] = .call }
        return PipelineSpec(
            gives: gives, numbers: numbers, texts: texts, pictures: pictures, latents: latents, outside: outside,
            sampler: sampler, steps: steps, before: before, denoise: loops, after: after, fast: fast, rates: rates)
    }

    /// What comes after the loop: `after`, or `fast` in its place.
    private mutating func last(_ value: JSON, _ gives: String, _ at: Place) throws -> [Role] {
        let roles = try check.list(value, 1...PipelineLimit.roles, at).enumerated().map {
            try role($1, at[$0], ["picture", "chunk"])
        }
        guard roles[roles.count - 1].keep.contains(where: { $0.value == gives }) else {
            throw check.fault("keeps no \(gives) in its last role (expected what the pipeline gives)", at)
        }
        return roles
    }

    /// Refuse what only some pictures would be given.
    private func always(_ gives: String, _ at: Place) throws {
        guard !optional.contains(gives) else {
            throw check.fault("makes no \(gives) where an optional picture is not given", at)
        }
    }

    private func readSampler(_ value: JSON, _ at: Place) throws -> (String, Int) {
        let object = try check.object(value, at)
        let name = try check.identifier(try check.field(object, "name", at), at["name"])
        let steps = try check.integer(try check.field(object, "steps", at), 1, PipelineLimit.steps, at["steps"])
        guard samplers.contains("\(name)_\(steps)") else {
            throw check.fault("is \(name) at \(steps) steps, but samplers has no \(name)_\(steps)", at)
        }
        return (name, steps)
    }

    // Runs -----------------------------------------------------------------------------------------------------------

    private mutating func step(_ value: JSON, _ at: Place) throws -> Step {
        let table = try check.table(value, Limit.rank, at)
        let below = try table["below"].map { try readBelow($0, at["below"]) }
        if let noise = table["noise"] {
            _ = try check.oneOf(noise, ["latents"], at["noise"])
            guard below == nil else {
                let what = "is there, and the noise is always drawn (expected it of a role or sample)"
                throw check.fault(what, at["below"])
            }
            return Step(work: .noise, below: nil)
        }
        guard table["sample"] != nil else {
            let run = try role(value, at, ["bundle", "picture", "text"], mayBeLeftOut: below != nil)
            return Step(work: .run(run), below: below)
        }
        for key in ["sample", "take", "keep"] { _ = try check.field(table, key, at) }
        let moments = try perPicture(table["sample"]!, at["sample"])
        let take = try check.oneOf(table["take"]!, ["draw", "mean"], at["take"])
        let name = try keep(table["keep"]!, .picture, optional.contains(moments) || below != nil, at["keep"])
        let scaled = try check.flag(table, "scaled", at)
        return Step(
            work: .sample(moments: moments, draw: take == "draw", scaled: scaled, keep: name), below: below)
    }

    /// Where a number is below a value, a step is done.
    private func readBelow(_ value: JSON, _ at: Place) throws -> (number: String, limit: Double) {
        let two = try check.list(value, 2...2, at)
        let number = try check.oneOf(two[0], steadyNumbers, at[0])
        return (number, try real(two[1], -Limit.float32, Limit.float32, at[1]))
    }

    private mutating func keep(_ value: JSON, _ rate: Rate, _ isOptional: Bool, _ at: Place) throws -> String {
        let given = numbers.map(\.name) + texts.map(\.name) + pictures.map(\.name)
        let kept = Set(rates.keys).union(madeInCalls).union(hidden)
        let name = try newName(value, given + kept, at)
        rates[name] = rate
        if rate == .call { madeInCalls.insert(name) }
        let count = kept.union([name, "latents", "timestep"]).count
        guard count <= PipelineLimit.values else {
            throw check.fault("keeps \(count) values (expected at most \(PipelineLimit.values))", Place.top["pipeline"])
        }
        if isOptional { optional.insert(name) }
        return name
    }

    /// A run of a component, as often as one of `words`; it says of which where there are several.
    ///
    /// - Parameter always: it may not depend on a picture that is optional.
    private mutating func role(
        _ value: JSON, _ at: Place, _ words: [String], mayBeLeftOut: Bool = false, always: Bool = false
    ) throws -> Role {
        let object = try check.object(value, at)
        for key in ["run", "feed", "keep"] { _ = try check.field(object, key, at) }
        let component = try check.oneOf(object["run"]!, components, at["run"])
        let word =
            words.count > 1 ? try check.oneOf(try check.field(object, "every", at), words, at["every"]) : words[0]
        let inChunks = word == "chunk"
        let every = Rate.allCases.first { "\($0)" == word } ?? .picture
        let sources = try check.table(object["feed"]!, PipelineLimit.ports, at["feed"]).rows
        let feeds = try sources.map { (port: $0.key, feed: try feed($0.value, at["feed"].key($0.key))) }
        var isOptional = mayBeLeftOut
        for (port, feed) in feeds {
            _ = try check.text(.text(port.text), at["feed"])
            let rate = feedRate(feed)
            guard rate <= every else {
                let what = "changes once per \(rate), and the role runs once per \(word)"
                throw check.fault(what, at["feed"].key(port))
            }
            switch feed {
            case .picture(let name, _):
                isOptional = isOptional || pictures.contains { $0.name == name && $0.entry.optional }
            case .value(let name, zerosIfAbsent: false): isOptional = isOptional || optional.contains(name)
            default: break
            }
        }
        guard !isOptional || !always else {
            throw check.fault("reads what is not made where an optional picture is not given", at["feed"])
        }
        var kept: [(port: Exact, value: String)] = []
        for (port, name) in try check.table(object["keep"]!, PipelineLimit.ports, at["keep"]).rows {
            _ = try check.text(.text(port.text), at["keep"])
            kept.append((port, try keep(name, every, isOptional, at["keep"].key(port))))
        }
        return Role(component: component, every: every, inChunks: inChunks, feed: feeds, keep: kept)
    }

    private func feed(_ value: JSON, _ at: Place) throws -> Feed {
        let table = try check.table(value, 2, at)
        let kinds = ["value", "tokens", "picture", "numbers"].filter { table[Exact($0)] != nil }
        guard kinds.count == 1 else {
            let found = kinds.isEmpty ? "no kind" : kinds.joined(separator: ", ")
            throw check.fault("is \(value.shown) of \(found) (expected value, tokens, picture or numbers)", at)
        }
        let kind = kinds[0]
        let given = table[Exact(kind)]!
        var zeros = false
        if let absent = table["absent"], absent.shown != "null" {
            guard case .text(let word) = absent, Exact(word) == "zeros", kind == "value" || kind == "tokens" else {
                throw check.fault("is \(absent.shown) (expected \"zeros\", for a value or tokens)", at["absent"])
            }
            zeros = true
        }
        switch kind {
        case "numbers":
            let rows = try check.list(given, 1...PipelineLimit.numbers, at[kind])
            return .numbers(try rows.enumerated().map { try portNumber($1, at[kind][$0]) })
        case "value": return .value(try check.oneOf(given, rates.keys, at[kind]), zerosIfAbsent: zeros)
        case "tokens": return .tokens(try check.oneOf(given, tokenizers, at[kind]), zerosIfAbsent: zeros)
        default:
            let name = try check.oneOf(given, pictures.map(\.name), at[kind])
            return .picture(name, noise: try table["noise"].map { try amount($0, at["noise"]) })
        }
    }

    private func portNumber(_ value: JSON, _ at: Place) throws -> Feed.PortNumber {
        guard case .object(let object) = value else { return .same(try amount(value, at)) }
        guard Set(object.keys) == Set(texts.map { Exact($0.name) }) else {
            throw check.fault("is \(value.shown) (expected a number for each text)", at)
        }
        var found: [String: Amount] = [:]
        for (text, number) in object.rows { found[text.text] = try amount(number, at.key(text)) }
        return .perText(found)
    }

    /// How often what a feed gives changes.
    private func feedRate(_ feed: Feed) -> Rate {
        switch feed {
        case .value(let name, _): return rates[name] ?? .call
        case .tokens: return .text
        case .picture: return .picture
        case .numbers(let rows):
            var rate = Rate.bundle
            for row in rows {
                var amounts: [Amount] = []
                switch row {
                case .same(let amount): amounts = [amount]
                case .perText(let several):
                    amounts = Array(several.values)
                    rate = max(rate, .text)
                }
                for case .number(let name) in amounts {
                    let windowed = numbers.contains { $0.name == name && $0.entry.window != nil }
                    rate = max(rate, windowed ? .call : .picture)
                }
            }
            return rate
        }
    }

    // The loop -------------------------------------------------------------------------------------------------------

    private mutating func loop(_ value: JSON, _ at: Place) throws -> Loop {
        let row = try check.object(value, at)
        for key in ["from", "until", "roles", "prediction", "passes", "combine"] { _ = try check.field(row, key, at) }
        let from = try amount(row["from"]!, at["from"])
        let until = try amount(row["until"]!, at["until"])
        let rows = try check.list(row["roles"]!, 1...PipelineLimit.roles, at["roles"])
        let roles = try rows.enumerated().map {
            try role($1, at["roles"][$0], ["call"], always: $0 == rows.count - 1)
        }
        let prediction = try check.oneOf(row["prediction"]!, roles[roles.count - 1].keep.map(\.value), at["prediction"])
        let passes = try check.list(row["passes"]!, 1...PipelineLimit.passes, at["passes"]).enumerated().map {
            try onePass($1, at["passes"][$0])
        }
        let readsTexts = roles.contains { $0.feed.contains { feedRate($0.feed) == .text } }
        for (i, pass) in passes.enumerated() where readsTexts != (pass.text != nil) {
            let what = "has \(readsTexts ? "no" : "a") text, and its roles read \(readsTexts ? "one" : "none")"
            throw check.fault(what, at["passes"][i])
        }
        let rescale = try present(row["rescale"]).map { try check.oneOf($0, plainNumbers, at["rescale"]) }
        let (first, add) = try combine(row["combine"]!, passes.count, at["combine"])
        guard rescale == nil || !add.isEmpty else {
            throw check.fault("is there, and nothing is combined", at["rescale"])
        }
        let guided = try present(row["guided"]).map { try self.guided($0, passes.count, at["guided"]) }
        return Loop(
            from: from, until: until, roles: roles, prediction: prediction, passes: passes, first: first,
            add: add, guided: guided, rescale: rescale)
    }

    private func present(_ value: JSON?) -> JSON? {
        if case .null? = value { return nil }
        return value
    }

    private func onePass(_ value: JSON, _ at: Place) throws -> Pass {
        let table = try check.table(value, Limit.rank, at)
        let text = try present(table["text"]).map { try check.oneOf($0, texts.map(\.name), at["text"]) }
        let zeros = try check.list(table["zeros"] ?? .list([]), 0...PipelineLimit.ports, at["zeros"]).enumerated().map {
            try check.oneOf($1, rates.keys.filter { $0 != "timestep" }, at["zeros"][$0])
        }
        return Pass(text: text, zeros: zeros)
    }

    private func combine(_ value: JSON, _ passes: Int, _ at: Place) throws -> (Int, [Loop.Term]) {
        let object = try check.object(value, at)
        let add = try check.field(object, "add", at)
        let first = try check.integer(try check.field(object, "first", at), 0, passes - 1, at["first"])
        let terms = try check.list(add, 0...PipelineLimit.passes, at["add"]).enumerated().map { i, row in
            let place = at["add"][i]
            let three = try check.list(row, 3...3, place)
            return Loop.Term(
                number: try check.oneOf(three[0], numbers.map(\.name), place[0]),
                plus: try check.integer(three[1], 0, passes - 1, place[1]),
                minus: try check.integer(three[2], 0, passes - 1, place[2]))
        }
        return (first, terms)
    }

    private func guided(_ value: JSON, _ passes: Int, _ at: Place) throws -> Loop.Guided {
        let object = try check.object(value, at)
        for key in ["number", "above", "alone"] { _ = try check.field(object, key, at) }
        return Loop.Guided(
            number: try check.oneOf(object["number"]!, numbers.map(\.name), at["number"]),
            above: try real(object["above"]!, -1e6, 1e6, at["above"]),
            alone: try check.integer(object["alone"]!, 0, passes - 1, at["alone"]))
    }
}
