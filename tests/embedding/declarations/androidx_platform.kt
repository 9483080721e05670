package androidx.test.platform.app

abstract class Instrumentation {
    abstract val context: android.content.Context
    abstract val targetContext: android.content.Context
}

object InstrumentationRegistry {
    @JvmStatic fun getInstrumentation(): Instrumentation = TODO()
}
