/// What comes after the loop: the final sample is decoded, in one piece, in bands or in chunks of frames; and what is
/// being drawn is shown.
extension Drawing {
    /// The pictures that are drawn, a frame each.
    func after(_ sample: [Float]) throws -> [Pixels] {
        let parts = try decode(plan.last, sample)
        for part in parts { try checkFinite(part, "the decoder's output") }
        return parts.flatMap { $0.split($0.shape[0]) }.map { keepOutside(Pixels($0)) }
    }

    /// A sample as what comes after the loop reads `latents`.
    private func latents(_ sample: some Sequence<Float>, _ shape: [Int]) -> Tensor {
        Tensor(sample.map { $0 / spec.latents.scaling + spec.latents.shift }, shape)
    }

    /// What roles make of a sample: f32 [frames, 3, height, width], some frames each.
    private func decode(_ roles: [Role], _ sample: [Float]) throws -> [Tensor] {
        let latents = latents(sample, latentShape)
        values.keep("latents", latents)
        for role in roles.dropLast() where plan.isRun(role) {
            if role.inChunks {
                try runInChunks(role)
            } else {
                try run(role, nil, plan.place)
            }
        }
        let decoder = roles[roles.count - 1]
        say(decoder.component)
        guard !stages.isEmpty, decoder.component == spec.decoder.component else {
            let port = decoder.keep.first { $0.value == spec.gives }!.port
            return try chunked(decoder).map { $0[port]! }
        }
        let inBands = BandDecoder(session: session, stages: stages)
        return try latents.split(plan.numbers.frames).map { try inBands.decode($0) }
    }

    // Previews --------------------------------------------------------------------------------------------------------

    /// A picture of a slot as it stands, of the first frame; nil where there is none to be had.
    func preview(_ sample: [Float]) throws -> Pixels? {
        switch plan.previews {
        case .none: return nil
        case .sum: return summed(sample)
        case .fast: return try decodedFast(sample)
        case .decoder:
            // Weights that would have to come and go with each preview are left alone.
            if request.lowMemory { return nil }
            let part = try decode(spec.after, sample)[0]
            return Pixels(part.rows(0..<1))
        }
    }

    /// Red, green and blue of each place: its channels times factors, summed in their order, and a constant.
    private func summed(_ sample: [Float]) -> Pixels {
        let channels = spec.latents.channels
        let plane = sample.count / plan.numbers.frames / channels
        let colours = spec.latents.preview.flatMap { row in
            (0..<plane).map { i -> Float in
                let sum = (0..<channels).reduce(Float(0)) { $0 + Float(row[$1]) * sample[$1 * plane + i] }
                return sum + Float(row[channels])
            }
        }
        return Pixels(Tensor(colours, [1, 3] + latentShape[2...]))
    }

    private func decodedFast(_ sample: [Float]) throws -> Pixels {
        let frame = sample.prefix(sample.count / plan.numbers.frames)
        var made = ["latents": latents(frame, [1] + latentShape.dropFirst())]
        for role in spec.fast {
            let rolePlan = try plan(role, 1, plan.place.merging(["frames": 1]) { $1 })
            var fed: [Exact: Tensor] = [:]
            for (port, feed) in role.feed {
                if case .value(let name, _) = feed { fed[port] = made[name] }
            }
            let outputs = try session.run(role.component, rolePlan.sizes, fed)
            for (port, value) in role.keep { made[value] = outputs[port] }
        }
        return Pixels(made[spec.gives]!)
    }

    // Frames ----------------------------------------------------------------------------------------------------------

    /// What a role makes of each chunk of frames.
    private func chunked(_ role: Role) throws -> [[Exact: Tensor]] {
        defer { values.frames = nil }
        return try plan.chunks(role, pipeline).map { frames in
            if role.inChunks { values.frames = frames }
            let rolePlan = try plan(role, 1, plan.place.merging(["frames": frames.count]) { $1 })
            return try session.run(role.component, rolePlan.sizes, values.feeds(role, rolePlan, part: nil))
        }
    }

    private func runInChunks(_ role: Role) throws {
        say(role.component)
        let made = try chunked(role)
        for (port, value) in role.keep {
            let joined = Tensor.joined(made.map { $0[port]! })
            try checkFinite(joined, "\(role.component)'s \(port)")
            values.keep(value, joined)
        }
    }

    /// Pixels outside of a mask are the picture's own.
    private func keepOutside(_ pixels: Pixels) -> Pixels {
        guard let (picture, mask) = spec.outside, plan.pictures.has(picture), plan.pictures.has(mask) else {
            return pixels
        }
        let own = plan.pictures.fitted(picture).bytes
        let isDrawn = plan.pictures.mask(mask)
        let bytes = pixels.bytes.enumerated().map { isDrawn[$0.offset / 3] ? $0.element : own[$0.offset] }
        return Pixels(width: pixels.width, height: pixels.height, bytes: bytes)
    }
}
