/// What is asked for. What is nil is the bundle's own.
public struct Request: Sendable {
    public var prompt: String
    /// Not the same as an empty text for every model (SDXL).
    public var negativePrompt: String?
    public var steps: Int?
    public var seed: UInt64
    /// In pixels.
    public var width: Int?
    public var height: Int?
    /// A table of the bundle, such as `euler_a`.
    public var sampler: String?
    /// A picture to begin from; `strength` of `numbers` says how much of it is drawn anew.
    public var image: Pixels?
    /// `guidance_scale`, `strength` and others that the pipeline has.
    public var numbers: [String: Double]
    /// f32 [1, channels, height / scale, width / scale], the noise to begin with instead of the seed's.
    public var latents: Tensor?
    /// A small picture of what is being drawn, each so many calls; 0: none.
    public var previewEvery: Int
    /// Guidance one pass at a time, the decoder in bands where the bundle has it so, weights given back after use.
    public var lowMemory: Bool

    public init(
        prompt: String, negativePrompt: String? = nil, steps: Int? = nil, seed: UInt64 = 0, width: Int? = nil,
        height: Int? = nil, sampler: String? = nil, image: Pixels? = nil, numbers: [String: Double] = [:],
        latents: Tensor? = nil, previewEvery: Int = 0, lowMemory: Bool = false
    ) {
        self.prompt = prompt
        self.negativePrompt = negativePrompt
        self.steps = steps
        self.seed = seed
        self.width = width
        self.height = height
        self.sampler = sampler
        self.image = image
        self.numbers = numbers
        self.latents = latents
        self.previewEvery = previewEvery
        self.lowMemory = lowMemory
    }

    var texts: [String: String] {
        var texts = ["prompt": prompt]
        if let negativePrompt { texts["negative_prompt"] = negativePrompt }
        return texts
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
    public let pixels: Pixels
    /// f32 [1, channels, height / scale, width / scale], the final ones.
    public let latents: Tensor
    public let facts: PictureFacts
    /// From the call to the first step's start; of all steps; of the decoder.
    public let secondsToFirstStep: Double
    public let secondsOfSteps: Double
    public let secondsOfDecoder: Double
}
