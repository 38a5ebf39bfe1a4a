import XCTest

@testable import Player

/// The demo model, and tiny ones of other families, drawn through the stand-in for Metal, against what Python draws on
/// the host's OpenCL device. The folder that `drawn.py` writes is named by `ONDEVICE_DRAWN`; `check.sh` sees to it.
final class DemoTests: XCTestCase {
    private static let folder = ProcessInfo.processInfo.environment["ONDEVICE_DRAWN"].map { URL(fileURLWithPath: $0) }
    /// The kernels of the two dialects round in half precision in other places.
    private static let leastDecibels = 40.0

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
        if row.has("image") {
            request.image = pixels(row["image"])
            (request.width, request.height) = (row["width"].int, row["height"].int)
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

    private func check(_ name: String) throws {
        let (pipeline, rows) = try pipeline(name)
        XCTAssertFalse(rows.isEmpty)
        for row in rows {
            var request = request(row)
            for lowMemory in [false, true] {
                request.lowMemory = lowMemory
                var heard: [String] = []
                let drawn = try pipeline.draw(request) { heard.append($0.stage) }
                let latents = row["latents"].flat
                let peak = latents.map(abs).max()!
                let likeness = [
                    decibels(drawn.latents.floats.map(Double.init), latents, peak: peak),
                    decibels(drawn.pixels!.bytes.map(Double.init), row["pixels"].flat, peak: 255),
                ]
                print("\(name), seed \(request.seed), low memory \(lowMemory): \(likeness.map { Int($0) }) dB")
                XCTAssertGreaterThan(likeness.min()!, DemoTests.leastDecibels, "\(name), seed \(request.seed)")
                XCTAssertEqual(drawn.facts.texts.map(\.text), row["texts"].rows.map(\.string))
                XCTAssertEqual(heard.last, "vae_decoder")
                XCTAssertGreaterThanOrEqual(heard.filter { $0.hasPrefix("step ") }.count, 1)
            }
        }
        pipeline.unload()
        XCTAssertEqual(pipeline.session.device.currentAllocatedSize, 0)
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
            (request.width, request.height) = (asked["width"].int, asked["height"].int)
            if asked.has("mask") { request.mask = pixels(asked["mask"]) }
            if asked.has("pictures") {
                for (key, value) in asked["pictures"].fields { request.pictures[key.text] = pixels(value) }
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
                XCTAssertEqual(drawn.frames.count, row["frames"].rows.count, name)
                for (frame, expected) in zip(drawn.frames, row["frames"].rows) {
                    let far = zip(frame.bytes, expected.flat).filter { abs(Double($0) - $1) > 0 }.count
                    XCTAssertLessThanOrEqual(far, frame.bytes.count / 500, name)  // at a half, by rounding
                }
                XCTAssertEqual(drawn.facts.texts.map(\.text), row["texts"].rows.map(\.string), name)
            }
        }
    }

    func testPreparedPictures() throws {
        guard let folder = DemoTests.folder else { throw XCTSkip("ONDEVICE_DRAWN names no folder of drawn.py") }
        let list = try Data(contentsOf: folder.appendingPathComponent("prepared.json"))
        let golden = try JSON(parsing: list, at: "prepared.json")
        for row in golden["edges"].rows {
            XCTAssertEqual(pixels(row["pixels"]).edges.map { $0 ? 1 : 0 }, row["edges"].flat)
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
            ("latents: wrong latents", { $0.latents = Tensor([Float](repeating: 0, count: 4), [1, 4, 1, 1]) }),
        ]
        for (words, change) in changes {
            var request = base
            change(&request)
            let message = refusal { _ = try pipeline.draw(request) }
            XCTAssertEqual(message?.contains(words), true, message ?? words)
        }
        let (arena, weights) = try pipeline.memory(base)
        XCTAssertEqual(
            arena,
            pipeline.bundle.plans.filter { $0.sizes["stage"] == nil && $0.component != "vae_encoder" }
                .map(\.arena).max())
        XCTAssertGreaterThan(weights, 0)
        XCTAssertEqual(pipeline.sizes.map(\.width), [64])
        XCTAssertEqual(pipeline.samplers["euler_a"]?.first, 1)
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
        XCTAssertEqual(Set(result.components.keys), ["text_encoder", "unet", "vae_decoder"])
        XCTAssertGreaterThan(result.ops.count, 10)
        XCTAssertGreaterThan(result.peakBytes, result.planBytes)
        try result.json().write(to: DemoTests.folder!.appendingPathComponent("result.json"))
    }
}
