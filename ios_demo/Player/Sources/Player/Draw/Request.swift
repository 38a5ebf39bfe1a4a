/// What is asked for. What is nil is the bundle's own.
public struct Request: Sendable {
    public var prompt: String
    /// Not the same as an empty text for every model (SDXL).
    public var negativePrompt: String?
    /// What signs such as `(word:1.2)` in texts mean.
    public var emphasis: Emphasis
    public var longTexts: LongTexts
    public var steps: Int?
    public var seed: UInt64
    public var seedMode: SeedMode
    /// The initial noise is turned towards another seed's, by `variationStrength`, 0 to 1.
    public var variationSeed: UInt64
    public var variationStrength: Double
    /// Draws of the loop are those of seed + delta, where it is not 0.
    public var noiseSeedDelta: Int64
    /// In pixels.
    public var width: Int?
    public var height: Int?
    /// A table of the bundle, such as `euler_a`.
    public var sampler: String?
    /// A picture to begin from; `strength` of `numbers` says how much of it is drawn anew.
    public var image: Pixels?
    /// White where the picture is drawn anew.
    public var mask: Pixels?
    /// Others that the pipeline has, by name.
    public var pictures: [String: Pixels]
    /// `guidance_scale`, `strength` and others that the pipeline has.
    public var numbers: [String: Double]
    /// f32 [frames, channels, height / scale, width / scale], the noise to begin with instead of the seed's.
    public var latents: Tensor?
    /// Of a schedule in two parts, by two models, where the first ends: nothing is decoded, and `Drawn.latents` are the
    /// sample as it stands.
    public var denoisingEnd: Double?
    /// Where the second begins, from such `latents`.
    public var denoisingStart: Double?
    /// Edges of the control pictures take their place.
    public var canny: Thresholds?
    /// Of adapters that the bundle carries, how much; nil: as much as the bundle says. They add up, in this order; the
    /// next request has its own.
    public var adapters: [(name: String, scale: Double?)]
    /// By the bundle's fast decoder, sooner and not as exact.
    public var fast: Bool
    /// A small picture of what is being drawn, each so many calls and after the last; 0: none.
    public var previewEvery: Int
    public var previewBy: PreviewBy
    /// Guidance one pass at a time, the decoder in bands where the bundle has it so, weights given back after use.
    public var lowMemory: Bool

    public init(
        prompt: String, negativePrompt: String? = nil, steps: Int? = nil, seed: UInt64 = 0, width: Int? = nil,
        height: Int? = nil, sampler: String? = nil, image: Pixels? = nil, mask: Pixels? = nil,
        pictures: [String: Pixels] = [:], numbers: [String: Double] = [:], latents: Tensor? = nil,
        emphasis: Emphasis = .none, longTexts: LongTexts = .truncate, adapters: [(name: String, scale: Double?)] = [],
        fast: Bool = false, previewEvery: Int = 0, lowMemory: Bool = false
    ) {
        self.prompt = prompt
        self.negativePrompt = negativePrompt
        self.emphasis = emphasis
        self.longTexts = longTexts
        self.steps = steps
        self.seed = seed
        seedMode = .torch
        variationSeed = 0
        variationStrength = 0
        noiseSeedDelta = 0
        self.width = width
        self.height = height
        self.sampler = sampler
        self.image = image
        self.mask = mask
        self.pictures = pictures
        self.numbers = numbers
        self.latents = latents
        self.adapters = adapters
        self.fast = fast
        self.previewEvery = previewEvery
        previewBy = .usual
        self.lowMemory = lowMemory
    }

    var texts: [String: String] {
        var texts = ["prompt": prompt]
        if let negativePrompt { texts["negative_prompt"] = negativePrompt }
        return texts
    }

    var givenPictures: [String: Pixels] {
        var given = pictures
        if let image { given["image"] = image }
        if let mask { given["mask"] = mask }
        return given
    }

    var seeds: Seeds {
        Seeds(
            seed: seed, mode: seedMode, variationSeed: variationSeed, variationStrength: variationStrength,
            delta: noiseSeedDelta)
    }
}

/// How previews are made: by a sum of the latents' channels, an eighth of the picture's size, or by the bundle's fast
/// decoder. Where neither is asked for, by the first of these that there is, else by the decoder itself.
public enum PreviewBy: Sendable {
    case usual, sum, fast
}

extension Request {
    /// Pictures of nets that add to each other, in their order.
    static let nets = ["control", "control_2", "control_3", "control_4"]

    /// Refuse a text or a picture that the pipeline does not know, and what is missing.
    func check(_ spec: PipelineSpec) throws {
        func refuse(_ place: String, _ what: String, _ fix: String) -> PlayerError {
            PlayerError(.usage, what, at: place, fix: fix)
        }
        for (name, text) in texts where !text.isEmpty && !spec.texts.contains(where: { $0.name == name }) {
            throw refuse(name, "this model takes no such text.", "leave it out")
        }
        let given = givenPictures
        let known = spec.pictures.filter { $0.entry.of.isEmpty }
        for name in given.keys.sorted() where !known.contains(where: { $0.name == name }) {
            guard name != "image" else { throw refuse(name, "this model begins from no picture.", "leave it out") }
            let have = known.isEmpty ? "none" : known.map(\.name).joined(separator: ", ")
            throw refuse(name, "this model takes no such picture (it takes \(have)).", "leave it out")
        }
        for (first, then) in zip(Request.nets, Request.nets.dropFirst())
        where spec.picture(then) != nil && given[then] != nil && given[first] == nil {
            let what = "its ControlNet adds to what that of \(first) makes, whose picture was not given."
            throw refuse(then, what, "give \(first), too")
        }
        if let canny {
            guard Request.nets.contains(where: { given[$0] != nil }) else {
                throw refuse("canny", "there is no picture for a ControlNet.", "give one, or leave it out")
            }
            guard [canny.first, canny.second].allSatisfy({ $0 >= 0 && $0.isFinite }) else {
                let got = "got \(short(canny.first)),\(short(canny.second)), expected two numbers of 0 or more"
                throw refuse("canny", "not two thresholds (\(got)).", "use 100,200")
            }
        }
        guard !fast || !spec.fast.isEmpty else {
            throw refuse("fast", "this bundle has no fast decoder.", "convert the checkpoint again with --taesd")
        }
        guard given["image"] == nil || latents == nil else {
            throw refuse("latents", "both given (got latents and an image, expected one).", "leave one out")
        }
        for (name, part) in [("denoising_end", denoisingEnd), ("denoising_start", denoisingStart)] {
            guard let part, !(part > 0 && part < 1) else { continue }
            let what = "not a part of the schedule (got \(part), expected above 0 and below 1)."
            throw refuse(name, what, "use 0.8, or leave it out")
        }
        guard denoisingStart == nil || latents != nil else {
            let what = "the schedule goes on from latents, and none were given."
            throw refuse("denoising_start", what, "give those that a run with denoisingEnd left")
        }
        guard (0...1).contains(variationStrength) else {
            let what = "out of range (got \(variationStrength), expected 0 to 1)."
            throw refuse("variation_strength", what, "use such as 0.1")
        }
        guard variationStrength == 0 || latents == nil else {
            let what = "latents were given, and no noise is drawn that could be varied."
            throw refuse("variation_seed", what, "leave the latents or the variation out")
        }
        for (name, optional) in spec.texts where !optional && texts[name] == nil {
            throw refuse(name, "this model draws nothing without this text.", "give one; it may be empty")
        }
        for (name, entry) in known where !entry.optional && given[name] == nil {
            if denoisingStart != nil, spec.isBegunFrom(name) { continue }
            throw refuse(name, "this model draws nothing without a picture.", "give one")
        }
    }
}

extension PipelineSpec {
    /// Whether nothing but the beginning of a run needs a picture.
    func isBegunFrom(_ picture: String) -> Bool {
        let begins = before.compactMap { step -> String? in
            if case .sample(let moments, _, _, let keep) = step.work, keep == latents.begin { return moments }
            return nil
        }
        let readers = roles.filter { role in
            role.feed.contains { if case .picture(picture, _) = $0.feed { return true } else { return false } }
        }
        let isPartOfOthers = pictures.contains { $0.entry.of.contains(picture) }
        return !isPartOfOthers && !readers.isEmpty
            && readers.allSatisfy { $0.keep.contains { begins.contains($0.value) } }
    }
}

/// What is heard of a drawing, from the thread that draws.
public struct DrawingProgress: Sendable {
    /// For people: "text_encoder", "step 3 of 20", "vae_decoder".
    public let stage: String
    /// Calls of the network that were made, and in all.
    public let done: Int
    public let calls: Int
    /// By the calls so far; nil while it is not known.
    public let secondsLeft: Double?
    public let preview: Pixels?
}

/// A picture, and what it took.
public struct Drawn: Sendable {
    /// One picture, or as many as there are frames; none where `denoisingEnd` was given.
    public let frames: [Pixels]
    /// f32 [frames, channels, height / scale, width / scale], the final ones.
    public let latents: Tensor
    public let facts: PictureFacts
    /// For people: what of a text was not read.
    public let notes: [String]
    /// From the call to the first step's start; of all steps; of the decoder.
    public let secondsToFirstStep: Double
    public let secondsOfSteps: Double
    public let secondsOfDecoder: Double

    /// The picture, or the first frame.
    public var pixels: Pixels? { frames.first }
}
