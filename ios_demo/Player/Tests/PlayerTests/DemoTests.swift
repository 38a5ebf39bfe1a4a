import XCTest

@testable import Player

/// The demo model, and tiny ones of other families, drawn through the stand-in for Metal, against what Python draws
/// through the same, and on the host's OpenCL device. The folder that `drawn.py` writes is named by `ONDEVICE_DRAWN`;
/// `check.sh` sees to it.
final class DemoTests: XCTestCase {
    private static let folder = ProcessInfo.processInfo.environment["ONDEVICE_DRAWN"].map { URL(fileURLWithPath: $0) }
    /// The kernels of the two dialects round in half precision in other places, and so do devices.
    private static let leastDecibels = 40.0
    /// Whether this is the device that Python drew with, too: to the byte.
    private static let isOfPython: Bool = {
        #if os(Linux)
            return true
        #else
            return false
        #endif
    }()

    private func pipeline(_ name: String = "demo") throws -> (Pipeline, [JSON]) {
        guard let folder = DemoTests.folder else { throw XCTSkip("ONDEVICE_DRAWN names no folder of drawn.py") }
        let rows = try JSON(
            parsing: try Data(contentsOf: folder.appendingPathComponent("drawn.json")), at: "drawn.json")
        let own = rows.rows.filter { $0["bundle"].string == name }
        return (try Pipeline(bundle: folder.appendingPathComponent("\(name).ondevice")), own)
    }

    private func request(_ row: JSON) -> Request {
        var request = Request(
            prompt: row["prompt"].string, seed: UInt64(row["seed"].int), sampler: row["sampler"].string)
        request.steps = row["num_inference_steps"].int
        if row.has("negative_prompt") { request.negativePrompt = row["negative_prompt"].string }
        for name in ["guidance_scale", "strength"] where row.has(name) { request.numbers[name] = row[name].double }
        if row.has("numbers") {
            for (name, value) in row["numbers"].fields { request.numbers[name.text] = value.double }
        }
        if row.has("image") { request.image = pixels(row["image"]) }
        if row.has("mask") { request.mask = pixels(row["mask"]) }
        if row.has("pictures") {
            for (key, value) in row["pictures"].fields { request.pictures[key.text] = pixels(value) }
        }
        if row.has("width") { (request.width, request.height) = (row["width"].int, row["height"].int) }
        if row.has("canny") {
            request.canny = Thresholds(row["canny"].rows[0].double, row["canny"].rows[1].double)
        }
        if row.has("fast") { request.fast = true }
        if row.has("lora") {
            request.adapters = row["lora"].rows.map { one in
                if case .null = one.rows[1] { return (one.rows[0].string, nil) }
                return (one.rows[0].string, one.rows[1].double)
            }
        }
        return request
    }

    private func decibels(_ got: [Double], _ expected: [Double], peak: Double) -> Double {
        XCTAssertEqual(got.count, expected.count)
        let mean = zip(got, expected).reduce(0) { $0 + ($1.0 - $1.1) * ($1.0 - $1.1) } / Double(got.count)
        return 10 * log10(peak * peak / max(mean, 1e-30))
    }

    func testPicturesAreThoseOfPython() throws {
        for name in ["demo", "sd21", "sdxl"] { try check(name) }
    }

    func testPicturesWithAdaptersAreThoseOfPython() throws {
        for name in ["adapted", "adapted_i8", "adapted_i4"] { try check(name) }
    }

    func testPicturesWithControlNetsAreThoseOfPython() throws { try check("control") }

    func testPicturesByTheFastDecoderAreThoseOfPython() throws { try check("fast") }

    /// One pipeline draws all of a bundle's rows, so that adapters are switched.
    private func check(_ name: String) throws {
        let (pipeline, rows) = try pipeline(name)
        XCTAssertFalse(rows.isEmpty)
        for row in rows {
            var request = request(row)
            let what = "\(name), seed \(request.seed)"
            var heard: [DrawingProgress] = []
            for lowMemory in [true, false] {
                request.lowMemory = lowMemory
                if !lowMemory, row.has("preview_every") { request.previewEvery = row["preview_every"].int }
                heard = []
                let drawn = try pipeline.draw(request) { heard.append($0) }
                let latents = row["latents"].flat
                let likeness = decibels(
                    drawn.latents.floats.map(Double.init), latents, peak: latents.map(abs).max()!)
                XCTAssertEqual(drawn.facts.texts.map(\.text), row["texts"].rows.map(\.string), what)
                XCTAssertGreaterThanOrEqual(heard.filter { $0.stage.hasPrefix("step ") }.count, 1)
                if lowMemory {  // passes by themselves, and bands, are other kernels, which round in other places
                    let pixels = drawn.pixels!.bytes.map(Double.init)
                    let alike = min(likeness, decibels(pixels, row["pixels"].flat, peak: 255))
                    print("\(what), in low memory: \(Int(alike)) dB")
                    XCTAssertGreaterThan(alike, DemoTests.leastDecibels, what)
                    continue
                }
                let isSame = drawn.png.withUnsafeBytes { SHA256.hex(of: $0) } == row["file"].string
                print("\(what): latents \(Int(likeness)) dB, file \(isSame ? "the same" : "another")")
                XCTAssertTrue(isSame || !DemoTests.isOfPython, what)
                XCTAssertGreaterThan(likeness, DemoTests.leastDecibels, what)
                for other in row["of_opencl"].rows {
                    let pixels = drawn.pixels!.bytes.map(Double.init)
                    let alike = decibels(pixels, other.flat, peak: 255)
                    print("\(what), beside OpenCL: \(Int(alike)) dB")
                    XCTAssertGreaterThan(alike, DemoTests.leastDecibels, what)
                }
                if request.previewEvery > 0 { checkPreviews(heard.compactMap(\.preview), row, drawn, what) }
            }
        }
        pipeline.unload()
        XCTAssertEqual(pipeline.session.device.currentAllocatedSize, 0)
    }

    /// Python's, or where it shows none, those of the decoder itself: the last one is the picture.
    private func checkPreviews(_ previews: [Pixels], _ row: JSON, _ drawn: Drawn, _ what: String) {
        let expected = row["previews"].rows
        XCTAssertEqual(previews.count, 2, what)
        if expected.isEmpty { return XCTAssertEqual(previews.last, drawn.pixels, what) }
        checkPictures(previews, expected, what)
    }

    private func checkPictures(_ got: [Pixels], _ expected: [JSON], _ what: String) {
        if DemoTests.isOfPython { return XCTAssertEqual(got, expected.map(pixels), what) }
        XCTAssertEqual(got.count, expected.count, what)
        for (one, other) in zip(got, expected) {
            XCTAssertGreaterThan(
                decibels(one.bytes.map(Double.init), other.flat, peak: 255), DemoTests.leastDecibels, what)
        }
    }

    private func pixels(_ value: JSON) -> Pixels {
        let rows = value.rows
        return Pixels(width: rows[0].rows.count, height: rows.count, bytes: value.flat.map { UInt8($0) })
    }

    /// Pipelines of all families, by tiny plans in single precision: every word of docs/pipeline.md.
    func testPipelinesByHandAreDrawn() throws {
        guard let folder = DemoTests.folder else { throw XCTSkip("ONDEVICE_DRAWN names no folder of drawn.py") }
        let list = try Data(contentsOf: folder.appendingPathComponent("by_hand.json"))
        for row in try JSON(parsing: list, at: "by_hand.json").rows {
            let name = "\(row["what"].string), \(row["bundle"].string)"
            let asked = row["request"]
            var request = request(asked)
            func text(_ key: String) -> String { asked.has(key) ? asked[key].string : "" }
            request.emphasis = Emphasis(rawValue: text("emphasis")) ?? .none
            request.longTexts = LongTexts(rawValue: text("long")) ?? .truncate
            request.seedMode = SeedMode(rawValue: text("seed_mode")) ?? .torch
            if asked.has("variation_seed") {
                request.variationSeed = UInt64(asked["variation_seed"].int)
                request.variationStrength = asked["variation_strength"].double
                request.noiseSeedDelta = Int64(asked["noise_seed_delta"].int)
            }
            if asked.has("latents") {
                request.latents = Tensor(asked["latents"].flat.map { Float($0) }, [1, 4, 2, 3])
                request.denoisingStart = asked["denoising_start"].double
            }
            if asked.has("denoising_end") { request.denoisingEnd = asked["denoising_end"].double }
            let pipeline = try Pipeline(bundle: folder.appendingPathComponent("\(row["bundle"].string).ondevice"))
            for lowMemory in [false, true] {
                request.lowMemory = lowMemory
                let drawn = try pipeline.draw(request)
                let latents = row["latents"].flat
                let likeness = decibels(
                    drawn.latents.floats.map(Double.init), latents, peak: latents.map(abs).max()!)
                XCTAssertGreaterThan(likeness, 110, name)
                checkPictures(drawn.frames, row["frames"].rows, name)
                XCTAssertEqual(drawn.facts.texts.map(\.text), row["texts"].rows.map(\.string), name)
            }
        }
    }

    func testPreparedPictures() throws {
        guard let folder = DemoTests.folder else { throw XCTSkip("ONDEVICE_DRAWN names no folder of drawn.py") }
        let list = try Data(contentsOf: folder.appendingPathComponent("prepared.json"))
        let golden = try JSON(parsing: list, at: "prepared.json")
        for row in golden["edges"].rows {
            XCTAssertEqual(pixels(row["pixels"]).edges().map { $0 ? 1 : 0 }, row["edges"].flat)
        }
        for row in golden["clip_vision"].rows {
            let (side, made) = (Pixels.clipSide, pixels(row["pixels"]).clipVision.floats)
            let expected = row["every7"].flat
            let columns = side / 7
            XCTAssertEqual(expected.count, 3 * columns * columns)
            for (i, value) in expected.enumerated() {
                let (channel, y, x) = (i / columns / columns, i / columns % columns * 7, i % columns * 7)
                XCTAssertEqual(Double(made[(channel * side + y) * side + x]), value, accuracy: 1e-6)
            }
        }
    }

    /// Bundles that are made to break a player: the same that Python and the C++ player refuse.
    func testHostileBundlesAreRefused() throws {
        guard let folder = DemoTests.folder?.appendingPathComponent("hostile") else {
            throw XCTSkip("ONDEVICE_DRAWN names no folder of drawn.py")
        }
        let list = try Data(contentsOf: folder.appendingPathComponent("hostile.json"))
        let rows = try JSON(parsing: list, at: "hostile.json").rows
        XCTAssertGreaterThan(rows.count, 200)
        for row in rows {
            let path = folder.appendingPathComponent(row["path"].string)
            let message = refusal { try ModelBundle(at: path).verify() }?
                .replacingOccurrences(of: path.path, with: path.lastPathComponent)
            // What no `Int` holds is its largest here.
            let words = row["message"].string.replacingOccurrences(of: "\(UInt64.max)", with: "\(Int.max)")
            XCTAssertEqual(message?.hasPrefix(words), true, "\(row["what"].string): \(message ?? "taken")")
        }
    }

    func testADrawingIsCancelled() throws {
        let (pipeline, rows) = try pipeline()
        let request = request(rows[0])
        let message = refusal { _ = try pipeline.draw(request) { if $0.done == 1 { pipeline.cancel() } } }
        XCTAssertEqual(message, "cancelled.")
        XCTAssertNoThrow(try pipeline.draw(request))
    }

    func testWhatCannotBeHadIsRefused() throws {
        let (pipeline, rows) = try pipeline()
        let base = request(rows[0])
        let changes: [(String, (inout Request) -> Void)] = [
            ("steps: there is no table of ddim at 3 steps", { $0.steps = 3 }),
            ("steps: there is no table of nosuch at 4 steps", { $0.sampler = "nosuch" }),
            (
                "width: not a size the model can draw (got 60, expected a multiple of 8). Fix: use 64.",
                { $0.width = 60 }
            ),
            (
                "has no plan of unet for batch=1 height=8 width=16 (it has batch=1 height=8 width=8; batch=2",
                { $0.width = 128 }
            ),
            ("nosuch: this model has no such number", { $0.numbers["nosuch"] = 1 }),
            ("strength: out of range (got 1.5, expected 0 to 1)", { $0.numbers["strength"] = 1.5 }),
            ("guidance_scale: out of range", { $0.numbers["guidance_scale"] = .nan }),
            (
                "ink: there is no adapter of that name in demo.ondevice (it carries none)",
                { $0.adapters = [("ink", 1)] }
            ),
            ("fast: this bundle has no fast decoder", { $0.fast = true }),
            ("control: this model takes no such picture", { $0.pictures["control"] = Pixels(one: 1) }),
            ("canny: there is no picture for a ControlNet", { $0.canny = Thresholds(100, 200) }),
            (
                "preview: no sum of this model's channels is known to be a picture. Fix: convert with --taesd.",
                { ($0.previewEvery, $0.previewBy) = (1, .sum) }
            ),
            (
                "preview: this bundle has no fast decoder. Fix: convert with --taesd.",
                { ($0.previewEvery, $0.previewBy) = (1, .fast) }
            ),
            ("latents: wrong latents", { $0.latents = Tensor([Float](repeating: 0, count: 4), [1, 4, 1, 1]) }),
        ]
        try checkRefused(pipeline, base, changes)
        let (arena, weights, changed) = try pipeline.memory(base)
        XCTAssertEqual(changed, 0)
        XCTAssertEqual(
            arena,
            pipeline.bundle.plans.filter { $0.sizes["stage"] == nil && $0.component != "vae_encoder" }
                .map(\.arena).max())
        XCTAssertGreaterThan(weights, 0)
        XCTAssertEqual(pipeline.sizes.map(\.width), [64])
        XCTAssertEqual(pipeline.samplers["euler_a"]?.first, 1)
    }

    private func checkRefused(
        _ pipeline: Pipeline, _ base: Request, _ changes: [(String, (inout Request) -> Void)]
    ) throws {
        for (words, change) in changes {
            var request = base
            change(&request)
            let message = refusal { _ = try pipeline.draw(request) }
            XCTAssertEqual(message?.contains(words), true, message ?? words)
        }
    }

    func testAdaptersAndControlPicturesThatCannotBeHadAreRefused() throws {
        let (adapted, rows) = try pipeline("adapted")
        try checkRefused(
            adapted, request(rows[0]),
            [
                (
                    "dust: there is no adapter of that name in adapted.ondevice (it carries ink, clay)",
                    {
                        $0.adapters.append(("dust", nil))
                    }
                ),
                ("ink: it is there twice. Fix: name each once.", { $0.adapters = [("ink", 1), ("ink", 0.5)] }),
                (
                    "ink: 20000 is no scale (expected a number such as 0.8). Fix: use 1.",
                    {
                        $0.adapters = [("ink", 2e4)]
                    }
                ),
                ("ink: nan is no scale", { $0.adapters = [("ink", .nan)] }),
            ])
        let memory = try adapted.memory(request(rows[0]))
        XCTAssertGreaterThan(memory.changed, 1 << 20)
        XCTAssertLessThan(memory.changed, memory.weights)
        XCTAssertEqual(adapted.adapters.map(\.name), ["ink", "clay"])

        let (controlled, others) = try pipeline("control")
        let base = request(others[1])
        try checkRefused(
            controlled, base,
            [
                (
                    "control_2: its ControlNet adds to what that of control makes, whose picture was not given",
                    {
                        $0.pictures = ["control_2": $0.pictures["control"]!]
                    }
                ),
                (
                    "canny: not two thresholds (got -1,5, expected two numbers of 0 or more)",
                    {
                        $0.canny = Thresholds(-1, 5)
                    }
                ),
                ("canny: not two thresholds (got 5,nan", { $0.canny = Thresholds(5, .nan) }),
                ("control_end: out of range", { $0.numbers["control_end"] = 1.5 }),
            ])
        XCTAssertEqual(controlled.controls, ["control", "control_2"])
    }

    /// Python reads the result afterwards (check.sh).
    func testABenchmarkIsExported() throws {
        let (_, rows) = try pipeline()
        var request = request(rows[0])
        request.steps = 1
        let phone = PhoneFacts(model: "none", system: "Linux", cores: 1, memoryBytes: 1 << 30)
        let benchmark = try Benchmark(
            bundle: DemoTests.folder!.appendingPathComponent("demo.ondevice"), request: request, repeats: 2,
            phone: phone
        ) { PhoneState(thermal: "nominal", batteryPercent: 80, charging: false) }
        var pictures: Set<Int> = []
        let result = try benchmark.run { number, all, _ in
            pictures.insert(number)
            XCTAssertEqual(all, 4)
        }
        XCTAssertEqual(pictures, [0, 1, 2, 3])
        XCTAssertEqual(result.runs.count, 2)
        XCTAssertEqual(Set(result.components.keys), ["text_encoder", "keys_values", "unet", "vae_decoder"])
        XCTAssertGreaterThan(result.ops.count, 10)
        XCTAssertGreaterThan(result.peakBytes, result.planBytes)
        try result.json().write(to: DemoTests.folder!.appendingPathComponent("result.json"))
    }
}
