/// What comes after the loop: the final sample is decoded, in one piece, in bands or in chunks of frames.
extension Drawing {
    /// The pictures that are drawn, a frame each.
    func after(_ sample: [Float], _ stages: [Stage]) throws -> [Pixels] {
        let latents = Tensor(sample.map { $0 / spec.latents.scaling + spec.latents.shift }, latentShape)
        values.keep("latents", latents)
        for role in spec.after.dropLast() where plan.isRun(role) {
            if role.inChunks {
                try runInChunks(role)
            } else {
                try run(role, nil, plan.place)
            }
        }
        say(spec.decoder.component)
        var parts: [Tensor]
        if stages.isEmpty {
            let port = spec.decoder.keep.first { $0.value == spec.gives }!.port
            parts = try chunked(spec.decoder).map { $0[port]! }
        } else {
            let decoder = BandDecoder(session: session, stages: stages)
            parts = try latents.split(plan.numbers.frames).map { try decoder.decode($0) }
        }
        for part in parts { try checkFinite(part, "the decoder's output") }
        parts = parts.flatMap { $0.split($0.shape[0]) }
        return parts.map { keepOutside(Pixels($0)) }
    }

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
