package tandem;

import java.lang.reflect.InvocationTargetException;
import java.util.Arrays;

/**
 * Runs the main class that the first argument names, and ends this JVM where that fails.
 *
 * <p>A main method that throws ends its own thread alone: threads that an engine has begun by then keep the JVM alive for ever, and
 * whoever waits for its exit code hears of nothing.
 */
public final class JobMain {
  private JobMain() {}

  public static void main(String[] arguments) {
    try {
      String[] rest = Arrays.copyOfRange(arguments, 1, arguments.length);
      Class.forName(arguments[0]).getMethod("main", String[].class).invoke(null, (Object) rest);
    } catch (Throwable thrown) {
      Throwable failure = thrown instanceof InvocationTargetException ? thrown.getCause() : thrown;
      System.err.print("Exception in thread \"main\" ");
      failure.printStackTrace();
      System.err.flush();
      // Not exit(): what is to be done at the end may wait for what just failed.
      Runtime.getRuntime().halt(1);
    }
  }
}
