import Metal
import XCTest

@testable import Player

final class SessionTests: XCTestCase {
    /// The golden plans compute what Python's goldens say, through Metal's own names and the kernels' Metal spelling.
    func testGoldenPlans() throws {
        for (name, file) in [("tiny", "expected"), ("images", "expected_images")] {
            let bundle = try ModelBundle(at: Repository.golden.appendingPathComponent("bundle/\(name).ondevice"))
            let session = try Session(bundle)
            for row in try Repository.json("bundle/\(file).json")["plans"].rows {
                let sizes = Dictionary(uniqueKeysWithValues: row["sizes"].fields.map { ($0.key.text, $0.value.int) })
                let component = row["component"].string
                let plan = try bundle.plan(component, sizes)
                var inputs: [Exact: Tensor] = [:]
                for (port, values) in row["inputs"].fields {
                    let operand = plan.input(port)!
                    inputs[port] = Tensor(values.flat.map { Float($0) }, operand.shape)
                    if operand.dtype == .f16 {
                        inputs[port] = Tensor(
                            .f16, operand.shape,
                            values.flat.flatMap { value -> [UInt8] in
                                withUnsafeBytes(of: Float16(value).bitPattern) { [UInt8]($0) }
                            })
                    }
                }
                for _ in 0..<2 {  // a second run finds all of it prepared
                    let outputs = try session.run(component, sizes, inputs)
                    for (port, values) in row["outputs"].fields {
                        let expected = values.flat
                        let got = outputs[port]!.floats
                        XCTAssertEqual(got.count, expected.count)
                        let worst = zip(got, expected).map { abs(Double($0) - $1) }.max() ?? 0
                        XCTAssertLessThanOrEqual(worst, row["tolerance"].double, "\(component) \(port)")
                    }
                }
                XCTAssertNotNil(refusal { _ = try session.run(component, sizes, [:]) })
                session.isCancelled = { true }
                XCTAssertEqual(refusal { _ = try session.run(component, sizes, inputs) }, "cancelled.")
                session.isCancelled = { false }
                session.release()
            }
        }
    }

    func testAKernelThatDoesNotCompileIsRefusedWithItsName() throws {
        let files = try MemoryFiles("bundle/tiny.ondevice")
        let path = "kernels/pick.cl"
        let text = files.files[path]! + Data("\nthis is no Metal\n".utf8)
        files.files[path] = text
        try files.change(Manifest.file, [.text("files"), .text(path), .text("bytes")], .integer(text.count))
        let digest = text.withUnsafeBytes { SHA256.hex(of: $0) }
        try files.change(Manifest.file, [.text("files"), .text(path), .text("sha256")], .text(digest))
        let session = try Session(try ModelBundle(files: files))
        let message = refusal { try session.build("tiny", ["width": 8]) }
        XCTAssertEqual(message?.hasPrefix("pick.cl: Metal on the CPU refused it, with "), true, message ?? "taken")
    }
}
