extension Manifest {
    /// The manifest of parsed JSON.
    ///
    /// - Throws: `PlayerError` of the kind `bundle` with the field that is wrong.
    init(_ value: JSON) throws {
        let check = Checker(file: Manifest.file)
        version = try Manifest.version(of: value, check)
        let top = try check.object(value, .top)
        func required(_ key: String) throws -> JSON { try check.field(top, key, .top) }

        producer = try check.text(try required("producer"), Place.top["producer"])
        let files = try Manifest.files(check, try required("files"))
        self.files = files
        components = try Manifest.components(check, try required("components"))

        func listed(_ names: JSON, _ most: Int, _ at: Place, _ folder: String, _ ending: String = "") throws -> [String]
        {
            let found = try check.list(names, 0...most, at).enumerated().map { try check.name($1, at[$0]) }
            try check.distinct(found, at)
            for (i, name) in found.enumerated() where files["\(folder)/\(name)\(ending)"] == nil {
                throw check.fault("is \(JSON.quoted(name)), but \(folder)/\(name)\(ending) is not in files", at[i])
            }
            return found
        }
        kernels = try listed(try required("kernels"), Limit.kernels, Place.top["kernels"], "kernels", ".cl")
        for (i, name) in kernels.enumerated() {  // it is the entry point's name too
            _ = try check.identifier(.text(name), Place.top["kernels"][i])
        }
        preludes = try listed(try required("preludes"), 16, Place.top["preludes"], "kernels/prelude", ".h")
        samplers = try listed(try required("samplers"), Limit.files, Place.top["samplers"], "samplers", ".json")
        var tokenizers: [String: TokenizerEntry] = [:]
        for (key, row) in try check.table(try required("tokenizers"), 16, Place.top["tokenizers"]).rows {
            let at = Place.top["tokenizers"].key(key)
            let name = try check.identifier(.text(key.text), Place.top["tokenizers"])
            let object = try check.object(row, at)
            tokenizers[name] = TokenizerEntry(
                kind: try check.oneOf(try check.field(object, "kind", at), ["bpe", "unigram"], at["kind"]),
                length: try check.integer(try check.field(object, "length", at), 1, Limit.size, at["length"]),
                files: try listed(try check.field(object, "files", at), 64, at["files"], "tokenizers/\(name)"))
        }
        self.tokenizers = tokenizers
        guard files[Manifest.scheduler] != nil else {
            throw check.fault("has no \(Manifest.scheduler)", Place.top["files"])
        }
        let rows = try check.table(try required("weights"), Limit.weights, Place.top["weights"]).rows
        let weights = try rows.map { key, row -> (key: Exact, entry: WeightEntry) in
            _ = try check.text(.text(key.text), Place.top["weights"])
            return (key, try Manifest.weight(check, row, files, Place.top["weights"].key(key)))
        }
        self.weights = Dictionary(uniqueKeysWithValues: weights.map { ($0.key, $0.entry) })
        var adapting = AdapterReader(check: check, weights: weights)
        try adapting.checkMade(modules: top["modules"])
        adapters = try top["adapters"].map { try adapting.read($0) } ?? []
        targets = try top["targets"].map { try TargetEntry.read(check, $0) } ?? []
        plans = try Manifest.plans(check, try required("plans"), components, files, targets.map(\.name))
        let pipeline = try required("pipeline")
        if case .null = pipeline {
            self.pipeline = nil
        } else {
            var reader = PipelineReader(
                check: check, components: Set(components.keys),
                tokenizers: Set(tokenizers.keys), samplers: samplers)
            self.pipeline = try reader.read(pipeline)
        }
        model = try check.table(try required("model"), 256, Place.top["model"])
        for key in ["family", "source"] {
            _ = try check.text(try check.field(model, key, Place.top["model"]), Place.top["model"][key])
        }
    }

    private static func version(of value: JSON, _ check: Checker) throws -> (major: Int, minor: Int) {
        var format = value.shown
        if case .object(let object) = value {
            format = (object["format"] ?? .null).shown
            if case .text(let text)? = object["format"], Exact(text) == "ondevice-bundle" { format = "" }
        }
        guard format.isEmpty, case .object(let object) = value else {
            let what = "is not the manifest of a bundle (got format \(format), expected \"ondevice-bundle\")."
            throw PlayerError(.bundle, what, at: file, fix: damaged)
        }
        guard case .text(let text) = object["version"] ?? .null, let (major, minor) = numbers(text) else {
            throw check.fault("is \((object["version"] ?? .null).shown) (expected MAJOR.MINOR)", Place.top["version"])
        }
        guard major == 2 else {
            let fix =
                major > 2
                ? "install a newer ondevice" : "convert the checkpoint again; --force replaces this one"
            throw PlayerError(.bundle, "has format \(major).\(minor) (expected 2.x).", at: file, fix: fix)
        }
        return (major, minor)
    }

    /// "2.1": two numbers of at most four digits, without zeros before them.
    private static func numbers(_ text: String) -> (Int, Int)? {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false)
        let found = parts.compactMap { part -> Int? in
            let isPlain = part.utf8.allSatisfy { (0x30...0x39).contains($0) } && (1...4).contains(part.utf8.count)
            return isPlain && (part == "0" || !part.hasPrefix("0")) ? Int(part) : nil
        }
        return parts.count == 2 && found.count == 2 ? (found[0], found[1]) : nil
    }

    private static func files(_ check: Checker, _ value: JSON) throws -> [String: FileEntry] {
        let place = Place.top["files"]
        var files: [String: FileEntry] = [:]
        let rows = try check.table(value, Limit.files, place).rows
        for (key, row) in rows {
            let parts = key.text.split(separator: "/", omittingEmptySubsequences: false)
            guard parts.count <= 3, parts.allSatisfy({ isName(String($0)) }), key.text.lowercased() != file else {
                let expected = "expected a path of at most three plain names inside the bundle"
                throw check.fault("names \(JSON.quoted(key.text)) (\(expected))", place)
            }
            let at = place.key(key)
            let object = try check.object(row, at)
            let bytes = try check.integer(try check.field(object, "bytes", at), 0, Limit.bytes, at["bytes"])
            let digest = try check.field(object, "sha256", at)
            guard case .text(let sha256) = digest, sha256.utf8.count == 64,
                sha256.utf8.allSatisfy({ (0x30...0x39).contains($0) || (0x61...0x66).contains($0) })
            else { throw check.fault("is \(digest.shown) (expected 64 hexadecimal digits)", at["sha256"]) }
            files[key.text] = FileEntry(bytes: bytes, sha256: sha256)
        }
        try check.distinct(rows.map(\.key.text), place)
        return files
    }

    private static func components(_ check: Checker, _ value: JSON) throws -> [String: Dtype] {
        var components: [String: Dtype] = [:]
        for (key, row) in try check.table(value, Limit.plans, Place.top["components"]).rows {
            let at = Place.top["components"].key(key)
            let name = try check.identifier(.text(key.text), Place.top["components"])
            let object = try check.object(row, at)
            components[name] = try check.dtype(try check.field(object, "dtype", at), at["dtype"])
            if let rewrite = object["rewrite"] { try checkRewrite(check, rewrite, at["rewrite"]) }
        }
        return components
    }

    /// How a graph was rewritten is for people: it is only checked.
    private static func checkRewrite(_ check: Checker, _ value: JSON, _ at: Place) throws {
        let object = try check.object(value, at)
        _ = try check.integers(try check.field(object, "nodes", at), 0, Limit.count, 2...2, at["nodes"])
        let rules = try check.list(try check.field(object, "rules", at), 0...Limit.rules, at["rules"])
        for (i, row) in rules.enumerated() {
            let place = at["rules"][i]
            let rule = try check.object(row, place)
            _ = try check.identifier(try check.field(rule, "rule", place), place["rule"])
            _ = try check.name(try check.field(rule, "family", place), place["family"])
            _ = try check.integer(try check.field(rule, "applied", place), 0, Limit.count, place["applied"])
            let skipped = try check.table(try check.field(rule, "skipped", place), Limit.reasons, place["skipped"])
            for (reason, count) in skipped.rows {
                _ = try check.text(.text(reason.text), place["skipped"])
                _ = try check.integer(count, 1, Limit.count, place["skipped"].key(reason))
            }
            _ = try check.bool(try check.field(rule, "off", place), place["off"])
        }
    }

    private static func weight(
        _ check: Checker, _ value: JSON, _ files: [String: FileEntry], _ at: Place
    ) throws -> WeightEntry {
        let row = try check.object(value, at)
        let dtype = try check.dtype(try check.field(row, "dtype", at), at["dtype"])
        let shape = try check.shape(try check.field(row, "shape", at), dtype, at["shape"])
        let bytes = try check.integer(try check.field(row, "bytes", at), 1, Limit.bytes, at["bytes"])
        let expected = byteCount(shape, dtype)
        guard bytes == expected else {
            throw check.fault("is \(bytes) (expected \(expected) for \(dtype)\(shape))", at["bytes"])
        }
        let (file, entry) = try listedFile(check, try check.field(row, "file", at), "weights/", files, at["file"])
        let offset = try check.integer(try check.field(row, "offset", at), 0, Limit.bytes, at["offset"])
        guard offset % Limit.align == 0, offset + bytes <= entry.bytes else {
            let what = "is \(offset) (expected a multiple of \(Limit.align) with \(bytes) bytes before \(entry.bytes))"
            throw check.fault(what, at["offset"])
        }
        let made = try row["made"].map { value -> Made in
            var reader = MadeReader(check: check)
            return try reader.read(value, dtype, shape, at["made"])
        }
        return WeightEntry(dtype: dtype, shape: shape, file: file, offset: offset, bytes: bytes, made: made)
    }

    private static func listedFile(
        _ check: Checker, _ value: JSON, _ folder: String, _ files: [String: FileEntry], _ at: Place
    ) throws -> (String, FileEntry) {
        guard case .text(let file) = value, file.isASCII, file.hasPrefix(folder), let entry = files[file] else {
            throw check.fault("is \(value.shown) (expected a file of \(folder) in files)", at)
        }
        return (file, entry)
    }

    private static func plans(
        _ check: Checker, _ value: JSON, _ components: [String: Dtype], _ files: [String: FileEntry],
        _ targets: [String]
    ) throws -> [PlanEntry] {
        var known: [String: Set<Sizes>] = [:]  // by target and component
        var owners: [String: Int] = [:]  // by file: a plan that was read is known by it
        return try check.list(value, 1...Limit.plans, Place.top["plans"]).enumerated().map { i, row in
            let at = Place.top["plans"][i]
            let object = try check.object(row, at)
            let component = try check.oneOf(try check.field(object, "component", at), components.keys, at["component"])
            let sizes = try check.sizes(try check.field(object, "sizes", at), at["sizes"])
            let (file, _) = try listedFile(check, try check.field(object, "file", at), "plans/", files, at["file"])
            let arena = try check.integer(try check.field(object, "arena", at), 0, Limit.bytes, at["arena"])
            let weights = try check.integer(
                try check.field(object, "weight_bytes", at), 0, Limit.bytes, at["weight_bytes"])
            var served = targets
            if let named = object["targets"] {
                served = try check.list(named, 1...Limit.targets, at["targets"]).enumerated().map {
                    try check.oneOf($1, targets, at["targets"][$0])
                }
                try check.distinct(served, at["targets"])
            }
            for target in served.isEmpty ? [""] : served {
                guard known["\(target) \(component)", default: []].insert(sizes).inserted else {
                    let whose = target.isEmpty ? "" : " for \(target)"
                    throw check.fault("is a second plan of \(component) at \(sizes.shown)\(whose)", at)
                }
            }
            if let owner = owners[file] {
                throw check.fault("is \(JSON.quoted(file)), as in plans[\(owner)] (expected another)", at["file"])
            }
            owners[file] = i
            return PlanEntry(
                component: component, sizes: sizes, dtype: components[component]!, file: file,
                arena: arena, weightBytes: weights, targets: served)
        }
    }
}
