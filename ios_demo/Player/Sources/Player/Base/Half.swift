/// IEEE 754 binary16 as float32. (Swift's `Float16` is not there on a Mac with an Intel processor.)
func halfToFloat(_ half: UInt16) -> Float {
    let sign = UInt32(half & 0x8000) << 16
    let exponent = UInt32(half >> 10) & 31
    let fraction = UInt32(half & 0x3FF)
    switch exponent {
    case 0: return (sign == 0 ? 1 : -1) * Float(fraction) * 0x1p-24
    case 31: return Float(bitPattern: sign | 0x7F80_0000 | fraction << 13)
    default: return Float(bitPattern: sign | (exponent + 112) << 23 | fraction << 13)
    }
}

/// The nearest binary16, halves to even.
func floatToHalf(_ value: Float) -> UInt16 {
    let sign = UInt16(truncatingIfNeeded: value.bitPattern >> 16) & 0x8000
    let bits = value.bitPattern & 0x7FFF_FFFF
    if bits > 0x7F80_0000 { return sign | 0x7E00 }  // NaN
    if bits >= 0x477F_F000 { return sign | 0x7C00 }  // beyond the largest
    if bits < 0x3880_0000 {  // a multiple of 2^-24
        return sign | UInt16((value.magnitude * 0x1p24).rounded(.toNearestOrEven))
    }
    let rounded = bits - 0x3800_0000 + 0xFFF + (bits >> 13 & 1)
    return sign | UInt16(truncatingIfNeeded: rounded >> 13)
}
