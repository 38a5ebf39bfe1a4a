import XCTest

@testable import Player

/// Stored weights with adapters in them, against the goldens: the bytes that Python and the C++ player make.
final class AdapterTests: XCTestCase {
    private let bundle = try! ModelBundle(at: Repository.golden.appendingPathComponent("bundle/adapters.ondevice"))

    private func changed(_ adapters: [(String, Double)]) -> ChangedWeights {
        let known = bundle.manifest.adapters
        return ChangedWeights(bundle, adapters.map { use in (known.first { $0.name == use.0 }!, use.1) })
    }

    private func check(_ changed: ChangedWeights, _ expected: JSON) throws {
        let rows = expected.fields
        XCTAssertEqual(Set(bundle.manifest.weights.keys.filter(changed.has)), Set(rows.map(\.key)))
        // Numbers in few bits before their scales, and the other way around.
        for (key, bytes) in rows + rows.reversed() {
            XCTAssertTrue(try changed.values(key) == hexadecimal(bytes.string), key.text)
        }
    }

    func testChangedWeightsAreTheGoldens() throws {
        for use in try Repository.json("bundle/expected_adapters.json").rows {
            try check(changed(use["adapters"].rows.map { ($0.rows[0].string, $0.rows[1].double) }), use["weights"])
        }
    }

    /// int4's exact units: whole multiples stay what they are, and all else is rounded as Python rounds it.
    func testAChangeOfNothingFindsTheScalesThatWereThere() throws {
        guard let folder = ProcessInfo.processInfo.environment["ONDEVICE_DRAWN"] else {
            throw XCTSkip("ONDEVICE_DRAWN names no folder of drawn.py")
        }
        let list = try Data(contentsOf: URL(fileURLWithPath: folder).appendingPathComponent("changed.json"))
        try check(changed([("first", 1e-30)]), try JSON(parsing: list, at: "changed.json"))
    }

    func testWhatIsNotFiniteIsRefusedByTheWeight() {
        let message = refusal { _ = try changed([("first", 1e37)]).values("tiny/fused") }
        XCTAssertEqual(
            message,
            "tiny/fused: with its adapters it holds NaN, infinity, or what is too large for f16. "
                + "Fix: use another adapter, or a smaller scale.")
    }
}
