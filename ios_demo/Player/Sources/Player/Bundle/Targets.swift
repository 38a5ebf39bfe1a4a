/// What a plan may rely on of a device (docs/bundle.md, "Needs").
enum Need {
    static let all = ["half", "subgroups", "image2d", "matrix_unit", "wave_constants"]
    /// What Metal's prelude spells for any device.
    static let spelled = ["wave_constants"]
}

/// What a device has, in the words of a bundle's targets.
public struct DeviceFacts: Sendable {
    public var name: String
    public var version: String
    public var needs: [String]
    /// By the keys of `TargetEntry.limits`; what is not known stands in no way.
    public var limits: [String: Int]

    public init(name: String, version: String = "", needs: [String], limits: [String: Int]) {
        self.name = name
        self.version = version
        self.needs = needs
        self.limits = limits
    }
}

extension TargetEntry {
    static func read(_ check: Checker, _ value: JSON) throws -> [TargetEntry] {
        let rows = try check.list(value, 1...Limit.targets, Place.top["targets"])
        let found = try rows.enumerated().map { i, row -> TargetEntry in
            let at = Place.top["targets"][i]
            let object = try check.object(row, at)
            let name = try check.name(try check.field(object, "name", at), at["name"])
            let devices = try check.list(try check.field(object, "devices", at), 0...Limit.targets, at["devices"])
                .enumerated().map { try check.text($1, at["devices"][$0]) }
            let needs = try check.list(try check.field(object, "needs", at), 0...Limit.needs, at["needs"])
                .enumerated().map { try check.identifier($1, at["needs"][$0]) }
            let numbers = try check.object(try check.field(object, "limits", at), at["limits"])
            var limits: [String: Int] = [:]
            for limit in limitNames {
                let number = try check.field(numbers, limit, at["limits"])
                limits[limit] = try check.integer(number, 0, Limit.bytes, at["limits"][limit])
            }
            return TargetEntry(name: name, devices: devices, needs: needs, limits: limits)
        }
        try check.distinct(found.map(\.name), Place.top["targets"])
        return found
    }

    /// Whether a device is one of its kind.
    func describes(_ device: DeviceFacts) -> Bool {
        let text = "\(device.name)\n\(device.version)".lowercased()
        return devices.contains { text.contains($0.lowercased()) }
    }

    /// Why a device cannot run its plans; nil if it can.
    func misfit(_ device: DeviceFacts) -> String? {
        let lacks = needs.filter { !device.needs.contains($0) && !Need.spelled.contains($0) }
        if !lacks.isEmpty { return "it needs \(lacks.joined(separator: ", "))" }
        for limit in TargetEntry.limitNames {
            if let most = limits[limit], let has = device.limits[limit], has > 0, most > has {
                return "it needs \(limit.replacing("_", with: " ")) of \(most) (the device has \(has))"
            }
        }
        return nil
    }

    /// Refuse a plan that takes more of a device than this target says, which it serves.
    func check(_ plan: Plan, _ file: String) throws {
        if let unsaid = plan.needs.first(where: { !needs.contains($0) }) {
            let what = "needs \(unsaid), which target \(name) of \(Manifest.file) does not say."
            throw PlayerError(.bundle, what, at: file, fix: damaged)
        }
        let images = plan.operands.compactMap { operand -> (width: Int, height: Int)? in
            if case .view(_, let width, let height) = operand.home { return (width, height) }
            return nil
        }
        let taken = [
            "work_group": plan.dispatches.map { $0.group.reduce(1, *) }.max() ?? 0,
            "local_memory": 0,  // its kernels say it
            "allocation": plan.arena,
            "image_width": images.map(\.width).max() ?? 0,
            "image_height": images.map(\.height).max() ?? 0,
        ]
        for limit in TargetEntry.limitNames {
            if let most = limits[limit], let takes = taken[limit], takes > most {
                let what = "takes \(limit) of \(takes) (target \(name) of \(Manifest.file) says \(most))."
                throw PlayerError(.bundle, what, at: file, fix: damaged)
            }
        }
    }

    /// The first target that a device is of and whose plans it can run; else the last whose plans it can run.
    ///
    /// - Throws: `PlayerError` of the kind `device` where it can run those of none.
    static func chosen(of targets: [TargetEntry], for device: DeviceFacts) throws -> TargetEntry {
        let kinds = targets.filter { $0.describes(device) }
        if let target = (kinds + targets.reversed()).first(where: { $0.misfit(device) == nil }) { return target }
        let tried = kinds.isEmpty ? targets.suffix(1) : kinds[...]
        let why = tried.map { "\($0.name): \($0.misfit(device) ?? "")" }.joined(separator: "; ")
        throw PlayerError(
            .device, "\(device.name) runs none of the bundle's plans (\(why)).",
            fix: "convert for a --target of this device, such as ios")
    }
}

extension String {
    fileprivate func replacing(_ mark: Character, with other: Character) -> String {
        String(map { $0 == mark ? other : $0 })
    }
}
