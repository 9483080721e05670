package org.junit

annotation class Test

object Assert {
    @JvmStatic fun assertTrue(message: String, condition: Boolean): Unit = TODO()

    @JvmStatic fun assertEquals(expected: Any?, actual: Any?): Unit = TODO()
}
