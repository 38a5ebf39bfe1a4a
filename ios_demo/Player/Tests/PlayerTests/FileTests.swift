import XCTest

@testable import Player

/// A picture's file, against the goldens: the bytes that Python and the C++ player write.
final class FileTests: XCTestCase {
    func testPNGFilesAreTheSameBytes() throws {
        for row in try Repository.json("png/pictures.json").rows {
            let (width, height) = (row["width"].int, row["height"].int)
            let bytes =
                row.has("pixels") ? hexadecimal(row["pixels"].string) : formula(row["formula"].string, width, height)
            let texts = row["texts"].rows.map { (keyword: $0.rows[0].string, text: $0.rows[1].string) }
            let file = Pixels(width: width, height: height, bytes: bytes).png(texts: texts)
            if row.has("png") {
                XCTAssertEqual(file, hexadecimal(row["png"].string), row["name"].string)
            } else {
                XCTAssertEqual(file.count, row["bytes"].int, row["name"].string)
                XCTAssertEqual(file.withUnsafeBytes { SHA256.hex(of: $0) }, row["sha256"].string, row["name"].string)
            }
        }
    }

    private func formula(_ name: String, _ width: Int, _ height: Int) -> [UInt8] {
        var s: UInt32 = 1
        var bytes: [UInt8] = []
        for y in 0..<height {
            for x in 0..<width {
                for c in 0..<3 {
                    s = s &* 1_664_525 &+ 1_013_904_223
                    switch name {
                    case "flat": bytes.append([10, 200, 30][c])
                    case "ramp": bytes.append(UInt8(truncatingIfNeeded: [x / 2, y / 2, (x + y) / 4][c]))
                    case "noise": bytes.append(UInt8(s >> 24))
                    case "smooth": bytes.append(UInt8(truncatingIfNeeded: (x * x + y * y) >> 9 + 40 * c + Int(s >> 30)))
                    default:
                        let above = y == 0 ? 0 : bytes[((y - 1) * width + x) * 3 + c]
                        bytes.append(above &+ UInt8((s >> 8).trailingZeroBitCount))
                    }
                }
            }
        }
        return bytes
    }
}
