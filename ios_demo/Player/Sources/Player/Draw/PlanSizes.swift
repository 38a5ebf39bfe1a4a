/// Which plans there are for what a picture needs.
extension Pipeline {
    /// The sizes of a component's plan for a batch at a place, with the names that its plans have.
    func sizes(_ component: String, batch: Int, _ place: Sizes) -> Sizes {
        let wanted = place.merging(["batch": batch]) { $1 }
        let usual = bundle.plans.first { $0.component == component && $0.sizes["stage"] == nil }?.sizes ?? wanted
        return wanted.filter { usual[$0.key] != nil }
    }

    func entry(_ component: String, batch: Int, _ place: Sizes) -> PlanEntry? {
        bundle.entry(component, sizes(component, batch: batch, place))
    }

    /// Rows of the bands in which the bundle can decode a picture.
    func bandRows(_ place: Sizes) -> [Int] {
        let entries = bundle.plans.filter {
            $0.component == spec.decoder.component && $0.sizes["stage"] == 1 && $0.sizes["width"] == place["width"]
                && $0.sizes["height"] == place["height"]
        }
        return entries.compactMap { $0.sizes["rows"] }
    }

    /// The most frames that one of a component's plans takes, of those that are left; 0 where there is no plan.
    func chunk(_ component: String, _ place: Sizes, left: Int) -> Int {
        let most = bundle.plans.filter { $0.component == component && $0.sizes["stage"] == nil }.compactMap { entry in
            let frames = entry.sizes["frames"] ?? 1
            let own = sizes(component, batch: 1, place.merging(["frames": frames]) { $1 })
            return frames <= left && entry.sizes == own ? frames : nil
        }
        return most.max() ?? 0
    }

    /// Ids that a text encoder takes at once; 0 where several take different numbers.
    var textLength: Int {
        let lengths = Set(bundle.manifest.tokenizers.values.map(\.length))
        return lengths.count == 1 ? lengths.first! : 0
    }

    /// Of a text's chunks, what each component that reads several has plans for.
    func mostChunks(_ place: Sizes) -> Int {
        let length = textLength
        var tokens: [String: Set<Int>] = [:]
        for entry in bundle.plans {
            guard let size = entry.sizes["tokens"] else { continue }
            let isHere = ["height", "width"].allSatisfy { entry.sizes[$0] == nil || entry.sizes[$0] == place[$0] }
            if isHere { tokens[entry.component, default: []].insert(size) }
        }
        guard length > 0, let first = tokens.values.first else { return 1 }
        let inAll = tokens.values.reduce(first) { $0.intersection($1) }
        return max(inAll.map { $0 / length }.max() ?? 1, 1)
    }

    /// The sizes in pixels that can be drawn, in the order of the bundle.
    public var sizes: [(width: Int, height: Int)] {
        let denoiser = spec.denoise[0].roles.last?.component
        var found: [(width: Int, height: Int)] = []
        for entry in bundle.plans where entry.component == denoiser {
            guard let width = entry.sizes["width"], let height = entry.sizes["height"] else { continue }
            let place = ["width": width, "height": height, "tokens": textLength]
            let scale = spec.latents.scale
            let decodes = chunk(spec.decoder.component, place, left: .max) > 0 || !bandRows(place).isEmpty
            if decodes, !found.contains(where: { $0 == (width * scale, height * scale) }) {
                found.append((width * scale, height * scale))
            }
        }
        return found
    }

    /// How many passes run in one go: all of them where each role that runs has a plan of that batch.
    func passesAtOnce(_ roles: [Role], _ passes: Int, _ place: Sizes, _ lowMemory: Bool) -> Int {
        func has(_ batch: Int) -> Bool { roles.allSatisfy { entry($0.component, batch: batch, place) != nil } }
        if lowMemory, passes > 1, has(1) { return 1 }
        return has(passes) ? passes : 1
    }

    /// Every run that a drawing makes: how many passes at a time, and the sizes of its plan beside.
    func runs(_ plan: DrawingPlan, lowMemory: Bool) -> [(role: Role, batch: Int, place: Sizes)] {
        var found: [(role: Role, batch: Int, place: Sizes)] = []
        for step in spec.before where plan.isDone(step) {
            guard case .run(let role) = step.work else { continue }
            if role.every == .text {
                for place in plan.places { found.append((role, 1, place)) }
            } else {
                found.append((role, 1, plan.place))
            }
        }
        for loop in spec.denoise {
            for group in plan.groups(loop, plan.numbers) {
                let place = plan.place(group[0].part)
                let roles = loop.roles.filter(plan.isRun)
                let batch = passesAtOnce(roles, group.count, place, lowMemory)
                found += roles.map { ($0, batch, place) }
            }
        }
        if plan.previews == .fast { found += spec.fast.map { ($0, 1, plan.place.merging(["frames": 1]) { $1 }) } }
        for role in plan.last where plan.isRun(role) && !plan.isCut {
            found += plan.chunks(role, self).map { (role, 1, plan.place.merging(["frames": $0.count]) { $1 }) }
        }
        return found
    }
}
