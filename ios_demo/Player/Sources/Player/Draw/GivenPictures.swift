/// The pictures of a request, prepared as the pipeline says (docs/pipeline.md).
final class GivenPictures {
    private let spec: PipelineSpec
    private let given: [String: Pixels]
    private let width: Int
    private let height: Int
    private let canny: Thresholds?
    private var traced: [String: Pixels] = [:]
    private var known: [String: Tensor] = [:]

    /// Width and height are those of what is drawn.
    init(_ spec: PipelineSpec, _ given: [String: Pixels], width: Int, height: Int, canny: Thresholds? = nil) {
        self.spec = spec
        self.given = given
        self.canny = canny
        self.width = width
        self.height = height
    }

    /// Whether a picture was given, or those that it is made of.
    func has(_ name: String) -> Bool {
        let of = spec.picture(name)?.of ?? []
        return of.isEmpty ? given[name] != nil : of.allSatisfy(has)
    }

    /// The picture as `fit` resizes it, 8 bits still; of one that is made of others, the first of these.
    func fitted(_ name: String) -> Pixels {
        source(name).resized(width: width, height: height)
    }

    /// The picture itself, or its edges; of one that is made of others, the first of these.
    private func source(_ name: String) -> Pixels {
        let source = spec.picture(name)?.of.first ?? name
        guard let canny, Request.nets.contains(source) else { return given[source]! }
        let edges = traced[source] ?? given[source]!.resized(width: width, height: height).edgePicture(canny)
        traced[source] = edges
        return edges
    }

    /// Whether the mask is there, for each pixel of what is drawn.
    func mask(_ name: String) -> [Bool] { fitted(name).isLight }

    /// f32, in the shape that `prepare` says. The picture was given.
    func tensor(_ name: String) -> Tensor {
        if let found = known[name] { return found }
        let made = prepared(name)
        known[name] = made
        return made
    }

    private func prepared(_ name: String) -> Tensor {
        let entry = spec.picture(name)!
        let scale = spec.latents.scale
        switch entry.prepare {
        case "mask":
            let mask = mask(name)
            let (rows, columns) = (height / scale, width / scale)
            let values = (0..<rows * columns).map { i -> Float in
                mask[i / columns * scale * width + i % columns * scale] ? 1 : 0
            }
            return Tensor(values, [1, 1, rows, columns])
        case "masked":
            let mask = mask(entry.of[1])
            let values = fitted(name).tensor.floats.enumerated().map { mask[$0.offset % mask.count] ? 0 : $0.element }
            return Tensor(values, [1, 3, height, width])
        case "edges":
            let edges = fitted(name).edges().map { Float($0 ? 1 : 0) }
            return Tensor(edges + edges + edges, [1, 3, height, width])
        case "clip_vision": return source(name).clipVision
        case "unit": return fitted(name).unitTensor
        default: return fitted(name).tensor
        }
    }
}
