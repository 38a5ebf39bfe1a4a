/// This player's version: the Python package's.
public let playerVersion = "0.1.0"

/// What a picture was drawn with, as texts of its file: the same as the Python package writes.
public struct PictureFacts: Sendable {
    public var prompt = ""
    /// Empty where there was no guidance.
    public var negativePrompt = ""
    public var steps = 0
    public var sampler = ""
    public var guidanceScale = 1.0
    var seeds = Seeds()
    /// How weights act, of texts that have some.
    public var emphasis: Emphasis?
    /// Whether a text was read in several chunks.
    public var isLong = false
    /// Where the schedule was cut in two: `denoising_start`, `denoising_end`.
    public var parts: [String: Double] = [:]
    public var width = 0
    public var height = 0
    /// Of a picture that was begun from one.
    public var strength: Double?
    /// Whether an empty negative text was given to a model for which that is not the same as none.
    public var isNegativeGiven = false
    /// Edges of the control pictures took their place.
    public var canny: Thresholds?
    /// Whether the fast decoder drew it.
    public var isFast = false
    /// Adapters, each "NAME:SCALE", in the order of their use.
    public var adapters: [String] = []
    /// Others that were given.
    public var numbers: [String: Double] = [:]
    public var model = ""
    var config = JSONObject()  // the scheduler's

    /// The texts of the file, by keyword.
    public var texts: [(keyword: String, text: String)] { [("parameters", described), ("ondevice", json)] }

    private var version: String { "ondevice \(playerVersion)" }

    /// All of it as JSON, by key.
    var json: String {
        var rows: [String: String] = [
            "prompt": quoted(prompt), "negative_prompt": quoted(negativePrompt), "steps": "\(steps)",
            "sampler": quoted(sampler), "guidance_scale": "\(guidanceScale)", "seed": "\(seeds.seed)",
            "width": "\(width)", "height": "\(height)", "model": quoted(model), "version": quoted(version),
        ]
        if seeds.mode != .torch { rows["seed_mode"] = quoted(seeds.mode.rawValue) }
        if seeds.variationStrength != 0 {
            rows["variation_seed"] = "\(seeds.variationSeed)"
            rows["variation_strength"] = "\(seeds.variationStrength)"
        }
        if seeds.delta != 0 { rows["noise_seed_delta"] = "\(seeds.delta)" }
        if let emphasis { rows["emphasis"] = quoted(emphasis.rawValue) }
        if isLong { rows["long"] = quoted(LongTexts.chunk.rawValue) }
        if let strength { rows["strength"] = "\(strength)" }
        if isNegativeGiven { rows["negative_given"] = "true" }
        if let canny { rows["canny"] = quoted("\(short(canny.first)),\(short(canny.second))") }
        if isFast { rows["taesd"] = "true" }
        if !adapters.isEmpty { rows["lora"] = "[" + adapters.map(quoted).joined(separator: ", ") + "]" }
        for (name, value) in numbers.merging(parts, uniquingKeysWith: { $1 }) { rows[name] = "\(value)" }
        return "{" + rows.sorted { $0.key < $1.key }.map { "\"\($0.key)\": \($0.value)" }.joined(separator: ", ") + "}"
    }

    /// In the words of AUTOMATIC1111's WebUI: prompt, negative prompt and a line of settings.
    var described: String {
        var fields: [(String, String)] = [
            ("Steps", "\(steps)"),
            ("Sampler", isStochastic ? "DPM++ 2M SDE" : PictureFacts.samplers[sampler] ?? sampler),
            ("Schedule type", scheduleType),
            ("CFG scale", guidanceScale < 1 ? "1" : "\(guidanceScale)"),  // below 1 there is no guidance, as at 1
            ("Seed", "\(seeds.seed)"),
            ("Size", "\(width)x\(height)"),
            ("Model", model),
        ]
        if let strength { fields.append(("Denoising strength", "\(strength)")) }
        if sampler == "unipc" {  // settings that WebUI has other defaults of
            fields.append(("UniPC variant", text("solver_type") ?? "bh2"))
            var order = 2
            if case .integer(let stated)? = config["solver_order"] { order = stated }
            fields.append(("UniPC order", "\(order)"))
        }
        fields.append(("RNG", seeds.mode == .torch ? "CPU" : "NV"))
        if seeds.variationStrength != 0 {
            fields.append(("Variation seed", "\(seeds.variationSeed)"))
            fields.append(("Variation seed strength", "\(seeds.variationStrength)"))
        }
        if seeds.delta != 0 { fields.append(("ENSD", "\(seeds.delta)")) }
        // WebUI's default is `mean`. Where brackets are letters, it must be told so.
        let brackets = (prompt + negativePrompt).unicodeScalars.contains { "()[]\\".unicodeScalars.contains($0) }
        if emphasis == nil, brackets { fields.append(("Emphasis", "None")) }
        if let emphasis, emphasis != .mean { fields.append(("Emphasis", emphasis.rawValue)) }
        if isFast { fields.append(("VAE Decoder", "TAESD")) }  // WebUI's own words for it
        fields.append(("Lora", adapters.joined(separator: ", ")))
        fields.append(("Version", version))
        let line = fields.filter { !$0.1.isEmpty }.map { "\($0.0): \(PictureFacts.field($0.1))" }.joined(
            separator: ", ")
        let negative = negativePrompt.isEmpty ? [] : ["Negative prompt: \(PictureFacts.words(negativePrompt))"]
        return ([PictureFacts.words(prompt)] + negative + [line]).joined(separator: "\n")
    }

    private func text(_ key: Exact) -> String? {
        if case .text(let text)? = config[key] { return text }
        return nil
    }

    private static let samplers = [
        "pndm": "PLMS", "ddim": "DDIM", "euler": "Euler", "euler_a": "Euler a", "dpmpp_2m": "DPM++ 2M", "heun": "Heun",
        "lms": "LMS", "unipc": "UniPC", "lcm": "LCM", "ddpm": "DDPM",
    ]

    private var isStochastic: Bool { sampler == "dpmpp_2m" && text("algorithm_type") == "sde-dpmsolver++" }

    /// WebUI's name of the noise levels that a sampler takes; empty for a sampler that it does not know.
    private var scheduleType: String {
        guard PictureFacts.samplers[sampler] != nil else { return "" }
        if ["euler", "dpmpp_2m", "heun", "lms", "unipc"].contains(sampler) {
            if isSet("use_karras_sigmas") { return "Karras" }
            if isSet("use_exponential_sigmas") { return "Exponential" }
            if isSet("use_beta_sigmas") { return "Beta" }
        }
        guard ["euler", "euler_a", "dpmpp_2m", "heun", "lms"].contains(sampler) else { return "Automatic" }
        let spacing = text("timestep_spacing") ?? (config["timestep_spacing"] == nil ? "linspace" : "")
        // DPM-Solver++ leaves out the last of n + 1 even timesteps. WebUI's "Automatic" would be Karras for it.
        if sampler == "dpmpp_2m", spacing == "linspace" { return "SGM Uniform" }
        return ["linspace": "Uniform", "trailing": "Simple", "leading": "DDIM"][spacing] ?? ""
    }

    private func isSet(_ key: Exact) -> Bool {
        switch config[key] {
        case .bool(let flag)?: return flag
        case .integer(let number)?: return number != 0
        case .real(let number)?: return number != 0
        case .text(let text)?: return !text.isEmpty
        case .list(let items)?: return !items.isEmpty
        case .object(let object)?: return !object.keys.isEmpty
        case .null?, nil: return false
        }
    }

    /// A prompt. A line that WebUI would take for the negative prompt's begins with a small letter: the tokens are the
    /// same.
    private static func words(_ text: String) -> String {
        var letters = Array(text.unicodeScalars)
        let marker = Array("Negative prompt:".unicodeScalars)
        for start in letters.indices where start == 0 || letters[start - 1] == "\n" {
            var at = start
            while at < letters.count, isSpace(letters[at]) { at += 1 }
            if letters[at...].starts(with: marker) { letters[at] = "n" }
        }
        return String(String.UnicodeScalarView(letters.filter { $0.value != 0 }))
    }

    /// White space as Python has it.
    private static func isSpace(_ letter: Unicode.Scalar) -> Bool {
        (0x1C...0x1F).contains(letter.value) || letter.properties.isWhitespace
    }

    /// In quotation marks where the text would end a field.
    private static func field(_ text: String) -> String {
        guard text.unicodeScalars.contains(where: { ",:\"\n".unicodeScalars.contains($0) }) else { return text }
        return "\"" + text.unicodeScalars.map { escaped($0) ?? String($0) }.joined() + "\""
    }

    /// JSON in ASCII.
    private func quoted(_ text: String) -> String {
        let letters = text.unicodeScalars.map { letter -> String in
            if let escaped = PictureFacts.escaped(letter) { return escaped }
            if letter.value <= 0x7F { return String(letter) }
            return String(letter).utf16.map { "\\u" + hexadecimal($0) }.joined()
        }
        return "\"" + letters.joined() + "\""
    }

    private static func escaped(_ letter: Unicode.Scalar) -> String? {
        switch letter {
        case "\"": return "\\\""
        case "\\": return "\\\\"
        case "\n": return "\\n"
        case "\r": return "\\r"
        case "\t": return "\\t"
        case "\u{8}": return "\\b"
        case "\u{C}": return "\\f"
        default: return letter.value < 0x20 ? "\\u" + hexadecimal(UInt16(letter.value)) : nil
        }
    }
}

private func hexadecimal(_ unit: UInt16) -> String {
    let digits = String(unit, radix: 16)
    return String(repeating: "0", count: 4 - digits.count) + digits
}

extension Drawn {
    /// The picture's file, or the first frame's, with what it was drawn with inside; empty where nothing was decoded.
    public var png: [UInt8] { pngs.first ?? [] }

    /// A file for each frame.
    public var pngs: [[UInt8]] { frames.map { $0.png(texts: facts.texts) } }
}
