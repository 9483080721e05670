package android.graphics

class Bitmap {
    enum class Config { ARGB_8888, HARDWARE }

    val config: Config? get() = TODO()
    val width: Int get() = TODO()
    val height: Int get() = TODO()

    fun copy(config: Config, isMutable: Boolean): Bitmap = TODO()

    fun getPixels(pixels: IntArray, offset: Int, stride: Int, x: Int, y: Int, width: Int, height: Int): Unit = TODO()

    companion object {
        @JvmStatic
        fun createBitmap(colors: IntArray, width: Int, height: Int, config: Config): Bitmap = TODO()
    }
}
